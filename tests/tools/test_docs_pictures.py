"""The pictures of README.md and docs/ are small, and tools/docs_pictures.py makes them by the commands of the pages."""

import shutil

import numpy as np
import pytest
from conftest import ROOT, load_script
from PIL import Image

import slowfast_uniformer
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import UserError

pictures = load_script("tools/docs_pictures.py")
NAMES = ["preview.png", "timeline.png"]
TINY = ["UNIFORMER.EMBED_DIM", "[8,8,16,16]", "UNIFORMER.DEPTH", "[1,1,1,1]", "UNIFORMER.HEAD_DIM", 8]
TINY += ["DATA.NUM_FRAMES", 4, "DATA.TRAIN_CROP_SIZE", 32, "DATA.TEST_CROP_SIZE", 32, "SOLVER.MAX_EPOCH", 1]
TINY += ["SOLVER.WARMUP_EPOCHS", 0, "DATA_LOADER.NUM_WORKERS", 0, "TENSORBOARD.ENABLE", False]


def test_the_pictures_of_the_page_are_there_and_small():
    page, folder = (ROOT / "docs/custom_dataset.md").read_text(), ROOT / "docs/images"
    assert all(f"(images/{name})" in page for name in NAMES)
    assert all((folder / name).stat().st_size < pictures.LARGEST for name in NAMES)


def test_the_pictures_of_the_demo_are_there_and_small():
    readme = (ROOT / "README.md").read_text()
    for name in ("report.png", "maps.png"):
        assert f"(docs/images/{name})" in readme
        assert (ROOT / "docs/images" / name).stat().st_size < pictures.LARGEST_PAGE


def test_a_strip_has_the_chosen_rows_of_a_contact_sheet():
    step = pictures.SIDE + pictures.GAP
    sheet = Image.new("RGB", (40, pictures.TOP + 5 * step), "white")
    for row in range(5):
        sheet.paste((row, row, row), (0, pictures.TOP + row * step, 40, pictures.TOP + row * step + pictures.SIDE))
    made = pictures.strip(sheet, (2, 3))
    assert made.size == (40, pictures.TOP + 3 * step) and made.getpixel((20, pictures.TOP - 1)) == (255, 255, 255)
    assert [made.getpixel((20, pictures.TOP + row * step + 5))[0] for row in range(3)] == [0, 2, 3]


def test_a_page_is_drawn_only_where_there_is_a_browser(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not pictures.screenshot(tmp_path / "report.html", tmp_path / "report.png", 200, 100)
    assert "no Chromium (chromium, " in capsys.readouterr().out
    browser = tmp_path / "chromium"
    browser.write_text('#!/bin/sh\nfor word; do case $word in --screenshot=*) : > "${word#*=}";; esac; done\n')
    browser.chmod(0o755)
    assert pictures.screenshot(tmp_path / "report.html", tmp_path / "report.png", 200, 100)
    assert (tmp_path / "report.png").exists()


def test_without_a_tested_demo_it_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="run make demo first"):
        pictures.run_demo(tmp_path, tmp_path)


def test_something_is_seen_during_events_alone():
    shown = list(pictures.frames([(1.0, 2.0, "bounce"), (3.0, 4.0, "turn")], 5.0, seed=0))
    empty = [bool((frame == shown[0]).all()) for frame in shown]
    changes = np.flatnonzero(np.diff(empty)) + 1
    assert changes.tolist() == [13, 25, 38, 50]  # the first frames at or after 1, 2, 3 and 4 s, 12.5 a second


def test_a_picture_gets_as_many_colours_as_fit(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 600, 3), np.uint8))
    pictures.write_small(noise, tmp_path / "small.png", 150)
    assert Image.open(tmp_path / "small.png").size == (150, 75)
    with pytest.raises(UserError, match="make the picture smaller"):
        pictures.write_small(noise, tmp_path / "large.png", 600)
    assert not (tmp_path / "large.png").exists()


@pytest.mark.slow
def test_the_pictures_of_the_demo_are_made_by_the_commands_of_the_pages(tiny, demo, tmp_path, monkeypatch):
    cfg = load_config(None, tiny)
    slowfast_uniformer.train(cfg)
    slowfast_uniformer.test(cfg)
    monkeypatch.setattr(pictures, "EXPLAINED", str(next((demo / "videos").rglob("*.mp4"))))
    pictures.run_demo(tmp_path / "run", tmp_path)
    pictures.draw_demo(tmp_path, tmp_path / "images")
    assert (tmp_path / "report.html").exists() and (tmp_path / "images/maps.png").exists()
    if any(map(shutil.which, pictures.BROWSERS)):
        assert (tmp_path / "images/report.png").exists()


@pytest.mark.slow
def test_the_pictures_are_made_by_the_commands_of_the_page(tmp_path):
    pictures.make_recordings(tmp_path, 5)
    pictures.run_page(tmp_path, TINY)
    pictures.draw(tmp_path, tmp_path / "images")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == NAMES
