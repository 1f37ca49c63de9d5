"""Lists of a folder of class folders, and the command `uniformer lists`; tar files are in test_shards.py."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.folders import VIDEO_ENDINGS
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.inference.inputs import find_videos

LISTS = ("train.csv", "val.csv", "test.csv", "classes.txt")


@pytest.fixture
def run(command):
    """Call `uniformer lists`, check its exit status, and return what it prints."""

    def call(folder, *options, status=0):
        code, out, errors = command("lists", folder, *options)
        assert code == status, errors
        return SimpleNamespace(stdout=out, stderr=errors)

    return call


@pytest.fixture
def error_of(run):
    """Call `uniformer lists` with bad input and return its one line of error text."""

    def call(folder, *options):
        lines = run(folder, *options, status=2).stderr.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1 and lines[-1] == errors[0]
        return errors[0]

    return call


def fill(folder, counts, ending="mp4"):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number:02d}.{ending}").touch()
    return folder


def rows(folder, split, separator=" "):
    lines = (folder / f"{split}.csv").read_text().splitlines()
    return [(path, int(label)) for path, label in (line.rsplit(separator, 1) for line in lines)]


def lists_in(folder):
    """Overrides that use the lists and videos of a folder."""
    return ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(folder)]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in LISTS}


def test_stratified_split(tmp_path, run):
    videos = fill(tmp_path / "videos", {"run": 10, "jump": 5, "sit": 2})
    out = tmp_path / "lists"
    printed = run(videos, "--out", out).stdout
    assert (out / "classes.txt").read_text().split() == ["jump", "run", "sit"]
    train, val = rows(out, "train"), rows(out, "val")
    counts = [[label for _, label in part].count(k) for part in (train, val) for k in range(3)]
    assert counts == [4, 8, 1, 1, 2, 1]
    assert sorted(train + val) == sorted(
        (path.relative_to(videos).as_posix(), ["jump", "run", "sit"].index(path.parent.name))
        for path in videos.rglob("*.mp4")
    )
    assert rows(out, "test") == val
    assert sorted(p.name for p in out.iterdir()) == sorted(LISTS)
    for line in (f"DATA.PATH_TO_DATA_DIR {out}", f"DATA.PATH_PREFIX {videos}", "MODEL.NUM_CLASSES 3"):
        assert line in printed.splitlines()
    assert ["run", "8", "2", "2"] in [line.split() for line in printed.splitlines()]


def test_test_share_is_a_third_part(tmp_path, run):
    videos = fill(tmp_path, {"a": 10, "b": 3})
    run(videos, "--val", 0.2, "--test", 0.3)
    parts = [rows(videos, split) for split in ("train", "val", "test")]
    assert [[label for _, label in part].count(k) for k in (0, 1) for part in parts] == [5, 2, 3, 1, 1, 1]
    assert len({path for part in parts for path, _ in part}) == 13


def test_all_videos_may_be_for_training(tmp_path, run):
    printed = run(fill(tmp_path, {"a": 4, "b": 3}), "--val", 0).stdout
    assert len(rows(tmp_path, "train")) == 7 and not (tmp_path / "val.csv").exists()
    assert "TRAIN.EVAL_PERIOD 0" in printed and "TEST.ENABLE False" in printed


def test_seed_decides_and_classes_do_not_affect_each_other(tmp_path, run):
    for name, counts in {"one": {"a": 30}, "two": {"a": 30}, "three": {"a": 30, "b": 7}}.items():
        run(fill(tmp_path / name, counts), "--seed", 3)
    run(fill(tmp_path / "four", {"a": 30}), "--seed", 4)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert rows(tmp_path / "one", "val") == [row for row in rows(tmp_path / "three", "val") if row[1] == 0]
    assert rows(tmp_path / "one", "val") != rows(tmp_path / "four", "val")


def test_nested_folders_endings_and_single_videos(tmp_path, run):
    videos = fill(tmp_path, {"a/x": 2, "a/y/z": 2, "b": 1, "empty": 0}, ending="MP4")
    (videos / "a" / "notes.txt").touch()
    (videos / "a" / ".hidden.mp4").touch()
    (videos / "a" / "w.avi").touch()
    done = run(videos, "--ext", "mp4")
    assert "warning: empty: no videos" in done.stderr and "val has no video of b" in done.stderr
    assert (videos / "classes.txt").read_text() == "a\nb\n"
    listed = {path for split in ("train", "val") for path, _ in rows(videos, split)}
    assert listed == {"a/x/00.MP4", "a/x/01.MP4", "a/y/z/00.MP4", "a/y/z/01.MP4", "b/00.MP4"}
    run(videos, "--force")
    assert "a/w.avi" in {path for split in ("train", "val") for path, _ in rows(videos, split)}


@pytest.mark.parametrize("with_test", [False, True])
def test_ready_split_is_used(tmp_path, with_test, run):
    fill(tmp_path / "train", {"a": 3, "c": 1})
    fill(tmp_path / "val", {"a": 1, "b": 2})
    if with_test:
        fill(tmp_path / "test", {"c": 1})
    done = run(tmp_path)
    assert "this is the split" in done.stdout
    assert (tmp_path / "classes.txt").read_text().split() == ["a", "b", "c"]
    assert rows(tmp_path, "train") == [*[(f"train/a/0{k}.mp4", 0) for k in range(3)], ("train/c/00.mp4", 2)]
    assert rows(tmp_path, "val") == [("val/a/00.mp4", 0), ("val/b/00.mp4", 1), ("val/b/01.mp4", 1)]
    assert rows(tmp_path, "test") == ([("test/c/00.mp4", 2)] if with_test else rows(tmp_path, "val"))


def test_separator_in_a_path(tmp_path, run):
    videos = fill(tmp_path / "my videos", {"a b, c": 4})
    run(videos)
    assert [label for _, label in rows(videos, "val")] == [0]
    found = [sample.path for sample in annotations.load(load_config(None, lists_in(videos)), "train")]
    assert len(found) == 3 and all(Path(path).is_file() for path in found)
    assert "DATA.PATH_LABEL_SEPARATOR ';'" in run(videos, "--separator", ";", "--force").stdout
    assert len(rows(videos, "train", ";")) == 3


def test_existing_lists_stay_without_force(tmp_path, run, error_of):
    videos = fill(tmp_path, {"a": 4})
    (videos / "val.csv").write_text("mine\n")
    assert "val.csv" in error_of(videos) and "--force" in error_of(videos)
    assert (videos / "val.csv").read_text() == "mine\n" and not (videos / "train.csv").exists()
    run(videos, "--force")
    assert len(rows(videos, "val")) == 1


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        (None, (), "no such folder"),
        ({}, (), "no class folders"),
        ({"a": 0}, (), "no videos"),
        ({"a": 4}, ("--ext", "avi"), "--ext"),
        ({"a": 1}, (), "no videos for val"),
        ({"a": 4}, ("--val", "0.6", "--test", "0.4"), "and their sum below 1"),
        ({"a": 4}, ("--val", "-0.1"), "both must be 0 or more"),
        ({"a": 4}, ("--out", "{folder}/a/00.mp4/x"), "cannot write"),
    ],
)
def test_bad_input_is_one_line(tmp_path, counts, options, words, error_of):
    folder = tmp_path / "videos"
    if counts is not None:
        folder.mkdir()
        fill(folder, counts)
    assert words in error_of(folder, *(option.format(folder=folder) for option in options))


def listed(folder, *splits):
    return {path for split in splits or ("train", "val") for path, _ in rows(folder, split)}


def test_the_endings_are_those_that_other_commands_read(tmp_path, run):
    for ending in VIDEO_ENDINGS:
        for name in (f"a/lower{ending}", f"a/upper{ending.upper()}"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    done = run(tmp_path)
    found = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "a").iterdir()}
    assert listed(tmp_path) == found and len(found) == 2 * len(VIDEO_ENDINGS) and "left out" not in done.stderr
    samples = find_videos([str(tmp_path / "a")], load_config(None, ["NUM_GPUS", 0]))
    assert {os.path.relpath(sample.path, tmp_path) for sample in samples} == found


def test_links_are_followed_and_those_in_a_circle_end(tmp_path, run):
    pool = fill(tmp_path / "pool", {"left": 3, "x": 2})
    videos = fill(tmp_path / "videos", {"right": 2})
    (videos / "left").symlink_to(pool / "left")
    (videos / "right" / "more").symlink_to(pool / "x")
    (videos / "right" / "one.mp4").symlink_to(pool / "x" / "00.mp4")
    (videos / "right" / "up").symlink_to(videos)
    (pool / "x" / "again").symlink_to(pool / "x")
    (videos / "right" / "gone.mp4").symlink_to(pool / "nothing.mp4")
    (videos / "away").symlink_to(pool / "away")
    done = run(videos)
    right = {"right/00.mp4", "right/01.mp4", "right/one.mp4", "right/more/00.mp4", "right/more/01.mp4"}
    assert listed(videos) == {"left/00.mp4", "left/01.mp4", "left/02.mp4"} | right
    assert "left out, links that lead nowhere, pipes and devices: 2 (away, right/gone.mp4)" in done.stderr


def test_what_is_left_out_is_counted_and_named(tmp_path, run):
    fill(tmp_path, {"a": 4})
    for name in (
        "loose.mp4",
        "notes.txt",
        ".hidden",
        *LISTS,
        "a/._00.mp4",
        "a/.DS_Store",
        "a/r",
        *(f"a/{n}.jpg" for n in range(5)),
    ):
        (tmp_path / name).touch()
    (tmp_path / "a" / "app.ts").write_text("export const a = 1;")
    (tmp_path / "a" / "song.ogg").write_bytes(b"OggS\0\x02 \x01vorbis\0")
    (tmp_path / "a" / "stream.ts").write_bytes(b"G@\x11\x10\0\x42")
    (tmp_path / "a" / "film.ogg").write_bytes(b"OggS\0\x02 \x80theora\0")
    os.close(os.open(os.fsencode(tmp_path) + b"/a/caf\xe9.mp4", os.O_CREAT))
    (tmp_path / "a" / "new\nline.mp4").touch()
    options = ["--exclude", "*/03.*", "--exclude", "a/02.mp4", "--force"]
    errors = run(tmp_path, *options).stderr.splitlines()
    assert sorted(line.removeprefix("warning: left out, ") for line in errors) == [
        "--exclude: 2 (a/02.mp4, a/03.mp4)",
        "hidden files: 1 (a/._00.mp4)",
        r"names that a list cannot hold (not UTF-8, line breaks, spaces at an end): 2 ('a/caf\udce9.mp4', "
        r"'a/new\nline.mp4')",
        "no ending in the name: 1 (a/r)",
        "no video by its ending, .jpg: 5 (a/0.jpg, a/1.jpg, a/2.jpg, ...)",
        "no video inside, .ogg: 1 (a/song.ogg)",
        "no video inside, .ts: 1 (a/app.ts)",
        "no videos, and in no class folder: 1 (notes.txt)",
        "videos that are in no class folder: 1 (loose.mp4)",
    ]
    assert listed(tmp_path) == {"a/stream.ts", "a/film.ogg", "a/00.mp4", "a/01.mp4"}


def test_folders_that_cannot_be_read_are_named(tmp_path, run, monkeypatch):
    fill(tmp_path, {"a": 4, "a/locked": 2})
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "folders that cannot be read (Permission denied): 1 (a/locked)" in run(tmp_path).stderr


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"  "])
def test_class_names_that_lists_cannot_hold_are_refused(tmp_path, name, error_of):
    fill(tmp_path, {"a": 4})
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    assert "rename the folder" in error_of(tmp_path)
    assert os.listdir(tmp_path / "a") and not list(tmp_path.glob("*.csv"))


def test_names_that_look_the_same(tmp_path, run):
    fill(tmp_path / "train", {"caf\u00e9": 2, "Left": 1, "left": 1, " space ": 1})
    fill(tmp_path / "val", {"cafe\u0301": 1, "left": 1, "Left": 1, "space": 1})
    done = run(tmp_path)
    assert (tmp_path / "classes.txt").read_text().splitlines() == ["Left", "caf\u00e9", "left", "space"]
    assert ("val/cafe\u0301/00.mp4", 1) in rows(tmp_path, "val")
    assert "Left and left differ in case only, and are two classes" in done.stderr
    fill(tmp_path / "train", {"cafe\u0301": 1})
    assert "caf\u00e9: two folders of this name" in run(tmp_path, "--force").stderr


def test_a_split_of_other_names_and_parts(tmp_path, run):
    fill(tmp_path / "Training", {"a": 10})
    fill(tmp_path / "testing", {"a": 3})
    fill(tmp_path / "extra", {"a": 3})
    done = run(tmp_path)
    assert "Training/, testing/ hold class folders: this is the split" in done.stdout
    assert "no folder for validation" in done.stdout and "since there is a split: extra" in done.stderr
    assert [len(rows(tmp_path, split)) for split in ("train", "val", "test")] == [8, 2, 3]
    assert {path.split("/")[0] for path in listed(tmp_path)} == {"Training"}


def test_the_wrong_level_is_noted(tmp_path, run):
    fill(tmp_path / "videos", {"a": 3, "b": 3})
    assert f"if the folders in it are the classes, give {tmp_path / 'videos'}" in run(tmp_path).stderr


def test_folders_of_frames_are_the_videos_where_there_are_no_others(tmp_path, run):
    for video in ("a/v1", "a/v2", "b/x/v3", "b/v4"):
        (tmp_path / video).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / video / f"img_{number:05d}.png")
    done = run(tmp_path)
    assert "no video files: the folders of images are the videos, 4 of them" in done.stdout
    assert listed(tmp_path) == {"a/v1", "a/v2", "b/x/v3", "b/v4"} and "left out" not in done.stderr
    sample = annotations.load(load_config(None, [*lists_in(tmp_path), "MODEL.NUM_CLASSES", 2]), "train")[0]
    with open_sample(sample, "{:05d}.jpg") as video:
        assert video.frames == 3
    (tmp_path / "a" / "v1" / "flow_00001.png").touch()
    (tmp_path / "a" / "v1" / "flow_00002.png").touch()
    assert "set the key to flow_{:05d}.png or img_{:05d}.png" in run(tmp_path, "--force").stderr
    for name in ("one.mp4", "two.mp4"):
        (tmp_path / "a" / name).touch()
    assert "no video by its ending, .png: 14 (a/v1/flow_00001.png" in run(tmp_path, "--force").stderr


def test_lists_are_written_all_or_none(tmp_path, error_of):
    videos = fill(tmp_path / "videos", {"a": 4})
    (tmp_path / "out" / "train.csv").mkdir(parents=True)
    assert "is a folder, in the place of a list" in error_of(videos, "--out", tmp_path / "out", "--force")
    assert os.listdir(tmp_path / "out") == ["train.csv"]
