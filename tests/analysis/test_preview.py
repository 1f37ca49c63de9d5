"""The preview of training clips: what the model gets, which frames, and mixed clips with their targets."""

import random

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from slowfast_uniformer.analysis import preview as preview_module
from slowfast_uniformer.analysis.preview import preview, write_preview
from slowfast_uniformer.analysis.report import report
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.annotations import class_names
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.errors import UserError

MIXED = ["MIXUP.ENABLE", True, "AUG.ENABLE", True, "AUG.NUM_SAMPLE", 2, "AUG.AA_TYPE", "", "AUG.RE_PROB", 0.5]


@pytest.fixture
def sheets(monkeypatch) -> list:
    """The clips of each page that is drawn."""
    drawn, draw = [], preview_module.draw_sheet
    monkeypatch.setattr(preview_module, "draw_sheet", lambda clips: drawn.append(clips) or draw(clips))
    return drawn


def test_clips_are_those_of_the_first_batch(tiny, sheets):
    cfg = load_config(None, [*tiny, *MIXED])
    state = random.getstate()
    files = write_preview(cfg, 8)
    assert random.getstate() == state  # a preview changes no draw of what follows it
    assert [path.rpartition("/")[2] for path in files] == ["preview_clips.png", "preview_mixed.png"]
    batch, (clips, mixed) = next(iter(build_loader(cfg, "train"))), sheets
    for clip, expected in zip(clips, batch["clips"][::2], strict=True):
        assert torch.equal(clip.frames, to_display(expected, cfg))
    names = class_names(cfg)
    assert [clip.classes for clip in clips] == [[(names[label], "")] for label in batch["labels"][::2].tolist()]
    assert all(len(clip.numbers) == 4 and clip.total == 16 and "16 frames, 0.64 s" in clip.note for clip in clips)
    for clip in mixed:
        total = sum(float(end.removesuffix(" + ")) for _, end in clip.classes)
        assert 0.9 < total < 0.96 and len(clip.classes) <= 2 and clip.numbers is None  # label smoothing has the rest
    assert any(not torch.equal(one.frames, other.frames) for one, other in zip(clips, mixed, strict=True))


def test_the_frames_are_those_that_were_read(tiny, sheets, monkeypatch):
    read = []
    indices = VideoDataset.indices
    monkeypatch.setattr(VideoDataset, "indices", lambda *args: read.append(indices(*args)) or read[-1])
    assert len(write_preview(load_config(None, tiny), 3)) == 1
    assert [clip.numbers.tolist() for clip in sheets[0]] == [numbers.tolist() for numbers in read]


def test_several_labels_and_wrong_lines(tiny, demo, sheets, tmp_path):
    rows = [line.rsplit(" ", 1) for line in (demo / "train.csv").read_text().splitlines()[:3]]
    lists = tmp_path / "lists"
    lists.mkdir()
    lines = [f"{rows[0][0]} 0,3", f"{rows[1][0]} 2", "none.mp4 1", f"{rows[2][0]} 77"]
    (lists / "train.csv").write_text("\n".join(lines))
    cfg = load_config(None, [*tiny, "DATA.PATH_TO_DATA_DIR", str(lists), "DATA.MULTI_LABEL", True, "RNG_SEED", 1])
    write_preview(cfg, 99)
    classes = [clip.classes for clip in sheets[0]]
    assert sorted(classes)[0] == [("0", ", "), ("3", "")] and len(classes) == 3  # none.mp4 is replaced
    assert {len(each) for each in classes} == {1, 2}


def test_no_clip_and_a_former_picture(tiny, demo, tmp_path):
    cfg = load_config(None, [*tiny, *MIXED])
    write_preview(cfg, 2)
    assert len(write_preview(load_config(None, tiny), 1)) == 1  # without mixup: the mixed one is removed
    out = tmp_path / "run"
    assert [path.name for path in out.iterdir()] == ["preview_clips.png"]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.csv").write_text("none.mp4 1")
    with pytest.raises(UserError, match=r"no training clip can be read \(cannot read .*none.mp4"):
        write_preview(load_config(None, [*tiny, "DATA.PATH_TO_DATA_DIR", str(lists)]), 4)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="OUTPUT_DIR: cannot write to"):
        write_preview(load_config(None, [*tiny, "OUTPUT_DIR", str(tmp_path / "file")]), 1)


def test_check_draws_first_and_the_report_shows(command, tiny, demo, tmp_path):
    words = ("check", "--cfg", ROOT / "tests" / "empty.yaml", "--preview", 2, "--splits", "train", "--workers", 0)
    status, out, error = command(*words, *tiny)
    png = tmp_path / "run" / "preview_clips.png"
    assert status == 0 and out.startswith(f"training clips as the model gets them (MIXUP.ENABLE False)\n  {png}\n"), (
        error
    )
    assert np.asarray(Image.open(png)).shape[2] == 3 and "check_dataset.csv" in out
    (tmp_path / "run" / "metrics.jsonl").write_text('{"split": "train_iter", "step": 1, "loss": 1.0}\n')
    page = report([str(tmp_path / "run")])
    text = open(page).read()
    assert text.count('class="sheet" src="data:image/jpeg') == 1 and 'href="#clips"' in text
    png.write_bytes(b"damaged")
    assert 'class="sheet"' not in open(report([str(tmp_path / "run")])).read()
    status, out, error = command(*words[:3], "--preview", 0, *tiny)
    assert status == 2 and "--preview" in error


def test_the_picture_for_python_is_the_first_page(tiny, tmp_path):
    picture = preview(load_config(None, [*tiny, *MIXED]), 3)
    assert not (tmp_path / "run").exists()
    (clips, _) = write_preview(load_config(None, [*tiny, *MIXED]), 3)
    assert np.array_equal(np.asarray(picture), np.asarray(Image.open(clips)))
