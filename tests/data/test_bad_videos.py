"""Videos that cannot be read: noted once in bad_files.txt, skipped in training, counted in testing."""

import json
import os
import shutil

import pytest
from conftest import load_script

from slowfast_uniformer.data.bad_videos import BadVideos
from slowfast_uniformer.errors import UserError


def test_bad_videos_are_kept_and_shared(tmp_path):
    listed = ["a b.mp4", "c.mp4", *map(str, range(8))]
    mine, other = BadVideos(str(tmp_path), listed), BadVideos(str(tmp_path), listed)
    assert mine.add("a b.mp4", "cannot read a b.mp4:\n empty") and not mine.add("a b.mp4", "again")
    assert other.add("c.mp4", "cannot read c.mp4")
    mine = BadVideos(str(tmp_path), listed)
    assert mine.causes.keys() == {"a b.mp4", "c.mp4"}
    assert BadVideos(str(tmp_path), listed).causes["a b.mp4"] == "cannot read a b.mp4: empty"
    assert BadVideos(str(tmp_path), ["c.mp4"]).causes.keys() == {"c.mp4"}  # others belong to another list
    mine.check(0.2)
    message = r"2 of 10 videos cannot be read.*MAX_BAD_FRACTION 0.1 (?s:.*)c.mp4"
    with pytest.raises(UserError, match=message):
        mine.check(0.1)


def test_bad_videos_are_replaced_as_a_whole(tmp_path):
    videos = BadVideos(str(tmp_path))
    videos.add("a.mp4", "empty")
    videos.replace({"b.mp4": "cannot\nread"})
    assert (tmp_path / "bad_files.txt").read_text() == "b.mp4\tcannot read\n"
    assert BadVideos(str(tmp_path)).causes == {"b.mp4": "cannot read"} and len(os.listdir(tmp_path)) == 1


def damage(path, kind: int) -> None:
    """Make a video unreadable, in one of five ways."""
    content = path.read_bytes()
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.write_text("not a video")
    elif kind == 3:
        path.write_bytes(content[:500])
    else:
        path.write_bytes(bytes(len(content)))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_over_bad_videos_names_each_once_and_skips_them(tiny, run_net, tmp_path, workers):
    data = tmp_path / "data"
    load_script("datasets/make_demo.py").make_demo(data, train=16, val=10, seed=5, size=40, frames=16)
    trained = [line.rsplit(" ", 1)[0] for line in (data / "train.csv").read_text().splitlines()]
    tested = [line.rsplit(" ", 1)[0] for line in (data / "test.csv").read_text().splitlines()]
    bad = trained[:3]
    for kind, name in enumerate(bad):
        damage(data / "videos" / name, kind + 1)
    damage(data / "videos" / tested[4], 0)
    options = [*tiny, "DATA.PATH_TO_DATA_DIR", str(data), "DATA.PATH_PREFIX", str(data / "videos")]
    options += ["DATA_LOADER.NUM_WORKERS", workers]
    status, _, errors = run_net([*options, "SOLVER.MAX_EPOCH", 3, "TEST.MIN_COVERAGE", 90])
    assert status == 0, errors
    listed = (tmp_path / "run" / "bad_files.txt").read_text().splitlines()
    assert sorted(os.path.basename(line.split("\t")[0]) for line in listed) == sorted(map(os.path.basename, bad))
    for name in bad:
        assert errors.count(f"replaced: cannot read {data / 'videos' / name}") == 1
    status, _, errors = run_net([*options, "TRAIN.ENABLE", False])
    assert status == 2 and "1 of 10 videos could not be read" in errors
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["coverage"] for row in rows if row["split"] == "test_final"] == [90.0, 90.0]
    shutil.rmtree(tmp_path / "run")
    status, _, errors = run_net([*options, "DATA.MAX_BAD_FRACTION", 0.1])
    assert status == 2 and "MAX_BAD_FRACTION" in errors and "Traceback" not in errors
