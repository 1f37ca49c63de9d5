"""Lists of a folder of class folders, and the command `uniformer lists`; tar files are in test_shards.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations

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
        ({"a": 4}, ("--val", "0.6", "--test", "0.4"), "together below 1"),
        ({"a": 4}, ("--val", "0"), "val above 0"),
        ({"a": 4}, ("--out", "{folder}/a/00.mp4/x"), "cannot write"),
    ],
)
def test_bad_input_is_one_line(tmp_path, counts, options, words, error_of):
    folder = tmp_path / "videos"
    if counts is not None:
        folder.mkdir()
        fill(folder, counts)
    assert words in error_of(folder, *(option.format(folder=folder) for option in options))
