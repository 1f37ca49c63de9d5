"""Videos that cannot be read: noted once in bad_files.txt, skipped in training until they change."""

import errno
import json
import logging
import os
import shutil
import tarfile

import pytest
from conftest import ROOT, load_script
from PIL import Image
from video_factory import X264, write_video

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import video
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.bad_videos import BadVideo, BadVideos, bad_video, file_state, forget_changed
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError


def list_of(*paths):
    return SampleList.of(Sample(str(path), 0) for path in paths)


def test_bad_videos_are_kept_and_shared(tmp_path):
    listed = list_of("a b.mp4", "c.mp4", *range(8))
    mine, other = BadVideos(str(tmp_path), listed), BadVideos(str(tmp_path), listed)
    assert mine.add(BadVideo("a b.mp4", "cannot read a b.mp4:\n empty")) and not mine.add(BadVideo("a b.mp4", "again"))
    assert other.add(BadVideo("c.mp4", "cannot read c.mp4", (3, 4)))
    mine = BadVideos(str(tmp_path), listed)
    assert mine.videos.keys() == {"a b.mp4", "c.mp4"} and mine.damaged.keys() == {"c.mp4"}
    assert mine.videos["a b.mp4"].cause == "cannot read a b.mp4: empty" and mine.videos["c.mp4"].state == (3, 4)
    assert BadVideos(str(tmp_path), list_of("c.mp4")).videos.keys() == {"c.mp4"}  # others belong to another list
    mine.check(0.2)
    message = (
        r"2 of 10 videos cannot be read.*MAX_BAD_FRACTION 0.1 (?s:.*)c.mp4(?s:.*)2 are not there now.*mount is away"
    )
    with pytest.raises(UserError, match=message):
        mine.check(0.1)


def test_bad_videos_are_replaced_as_a_whole(tmp_path):
    videos = BadVideos(str(tmp_path))
    videos.add(BadVideo("a.mp4", "empty"))
    videos.replace([BadVideo("b.mp4", "cannot\nread", (1, 2)), BadVideo("c.mp4", "gone")])
    assert (tmp_path / "bad_files.txt").read_text() == "b.mp4\tcannot read\t1 2\nc.mp4\tgone\n"
    assert list(BadVideos(str(tmp_path)).videos) == ["b.mp4", "c.mp4"] and len(os.listdir(tmp_path)) == 1
    assert BadVideos(str(tmp_path)).videos["b.mp4"].state == (1, 2)


ODD_NAMES = ["tab\there.mp4", "two\nlines.mp4", "\rcr.mp4", '"quoted".mp4', "caf\udce9.mp4", "\u2028.mp4", "é b.mp4"]


def test_names_of_any_kind(tmp_path):
    for name in ODD_NAMES:
        BadVideos(str(tmp_path)).add(BadVideo(name, f"cannot read {name}", (1, 2)))
    assert [(v.path, v.state) for v in BadVideos(str(tmp_path)).videos.values()] == [(n, (1, 2)) for n in ODD_NAMES]
    BadVideos(str(tmp_path)).replace(BadVideos(str(tmp_path)).videos.values())
    assert list(BadVideos(str(tmp_path)).videos) == ODD_NAMES


def test_lines_that_are_cut_run_together_or_old(tmp_path):
    file = tmp_path / "bad_files.txt"
    file.write_bytes(
        b"\n/d/tor\nold.mp4\tempty\nx.mp4\tempty\t1 2y.mp4\tempty\t3 4\nwin.mp4\tempty\t5 6\r\n\xff\tempty\nz.mp4\tem"
    )
    bad_videos = BadVideos(str(tmp_path))
    assert {path: video.state for path, video in bad_videos.videos.items()} == {
        "old.mp4": None,
        "x.mp4": None,
        "win.mp4": (5, 6),
        "\udcff": None,
        "z.mp4": None,
    }
    bad_videos.add(BadVideo("new.mp4", "empty", (7, 8)))
    assert BadVideos(str(tmp_path)).videos["new.mp4"].state == (7, 8) and file.read_bytes().endswith(
        b"em\nnew.mp4\tempty\t7 8\n"
    )


def test_a_full_disk_does_not_end_a_training(tmp_path, caplog):
    bad_videos = BadVideos(str(tmp_path / "nowhere"))
    assert bad_videos.add(BadVideo("a.mp4", "empty")) and not bad_videos.add(BadVideo("a.mp4", "empty"))
    assert "cannot be written (No such file or directory)" in caplog.text


def note(folder, *paths):
    """Read videos that are expected to fail, and note them in the folder's bad_files.txt."""
    bad_videos = BadVideos(str(folder))
    for path in map(str, paths):
        with pytest.raises(VideoError) as caught:
            open_sample(Sample(path, UNLABELLED, 3 if os.path.basename(path) == "frames" else None), "{:05d}.jpg")
        assert bad_videos.add(bad_video(path, caught.value))


def lines_of(caplog):
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_a_start_tries_again_what_has_changed_or_come_back(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    repaired, damaged, away, gone = (str(tmp_path / f"{name}.mp4") for name in ("repaired", "damaged", "away", "gone"))
    for path in (repaired, damaged):
        (tmp_path / path).write_text("no video")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "00001.jpg").touch()
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(damaged, "m.mp4")
    paths = [repaired, damaged, away, gone, str(tmp_path / "frames"), str(tmp_path / "s.tar/m.mp4")]
    note(tmp_path, *paths)
    BadVideos(str(tmp_path)).add(BadVideo("of another list.mp4", "empty"))
    listed = list_of(*paths, *range(90))
    forget_changed(str(tmp_path), listed, 0.5)
    found = f"2 missing ({away}, {gone}); 4 unchanged, skipped"
    assert lines_of(caplog) == [f"bad_files.txt has 6 unreadable videos: {found}"]

    for path in (repaired, away):
        write_video(tmp_path / path, frames=5, **X264)
    forget_changed(str(tmp_path), listed, 0.5)
    found = f"2 there now or changed, tried again ({away}, {repaired}); 1 missing ({gone}); 3 unchanged, skipped"
    assert lines_of(caplog) == [f"bad_files.txt has 6 unreadable videos: {found}"]
    kept = {damaged, gone, *paths[4:]}
    assert BadVideos(str(tmp_path)).videos.keys() == kept | {"of another list.mp4"}
    assert BadVideos(str(tmp_path), listed).damaged.keys() == kept - {gone}

    Image.new("RGB", (8, 8)).save(tmp_path / "frames" / "00001.jpg")  # the folder's own time stays
    os.utime(tmp_path / "s.tar", (1, 1))
    forget_changed(str(tmp_path), listed, 0.5)
    assert BadVideos(str(tmp_path), listed).videos.keys() == {damaged, gone}
    os.remove(damaged)  # the same file, away for a while
    forget_changed(str(tmp_path), listed, 0.5)
    assert BadVideos(str(tmp_path), listed).videos.keys() == {damaged, gone}
    with pytest.raises(UserError, match="2 of 96 videos cannot be read(?s:.*)2 are not there now"):
        forget_changed(str(tmp_path), listed, 0.01)


def test_old_files_without_the_state_of_the_videos(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "bad_files.txt").write_text(
        f"{tmp_path}/a.mp4\tcannot read a.mp4: No such file\n{tmp_path}/b.mp4\tNo such file\n"
    )
    forget_changed(str(tmp_path), list_of(tmp_path / "a.mp4", tmp_path / "b.mp4"), 0.5)
    assert (tmp_path / "bad_files.txt").read_text() == f"{tmp_path}/b.mp4\tNo such file\n"
    forget_changed(str(tmp_path), list_of("others"), 0.5)
    assert len(lines_of(caplog)) == 1


def fails_with(number: int):
    def fail(path):
        raise OSError(number, os.strerror(number), path)

    return fail


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.ENOENT])
def test_faults_of_the_file_system_are_none_of_the_video(tmp_path, monkeypatch, number):
    path = write_video(tmp_path / "a.mp4", frames=5, **X264)
    with monkeypatch.context() as patch, pytest.raises(VideoError) as caught:
        patch.setattr(video.os.path, "getsize", fails_with(number))
        open_sample(Sample(str(path), UNLABELLED), "")
    assert bad_video(str(path), caught.value).state is None
    with pytest.raises(VideoError) as caught:
        open_sample(Sample(str(path), UNLABELLED), "", timeout=1e-9)
    assert bad_video(str(path), caught.value).state is None
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(VideoError) as caught:
        open_sample(Sample(str(path), UNLABELLED), "")
    assert bad_video(str(path), caught.value).state == file_state(str(path)) is not None


def test_a_video_that_is_back_is_used_by_the_running_training(tiny, demo, tmp_path):
    cfg = load_config(str(ROOT / "tests" / "empty.yaml"), tiny)
    dataset = VideoDataset(cfg, "train")
    path = tmp_path / "a.mp4"
    dataset.samples = [Sample(str(path), 0), *dataset.samples[1:]]
    assert dataset[0, 0]["errors"][0].path == str(path) and not dataset.bad_videos
    path.write_text("no video")
    assert dataset[0, 0]["errors"][0].state and dataset.bad_videos.keys() == {str(path)}
    del dataset.bad_videos[str(path)]
    shutil.copy(dataset.samples[1].path, path)
    assert dataset[0, 0]["errors"] == [] and dataset[0, 0]["video"] == 0


def test_what_is_back_does_not_count_as_bad(tmp_path):
    paths = [str(tmp_path / f"{number}.mp4") for number in range(4)]
    bad_videos = BadVideos(str(tmp_path), list_of(*paths))
    for path in paths[:3]:
        bad_videos.add(BadVideo(path, f"cannot read {path}: No such file"))
    with pytest.raises(UserError, match="3 of 4"):
        bad_videos.check(0.5)
    for path in paths[:2]:
        open(path, "w").close()
    bad_videos.check(0.5)
    assert bad_videos.videos.keys() == {paths[2]}


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
        assert errors.count(f"replaced by another video: cannot read {data / 'videos' / name}") == 1
    status, _, errors = run_net([*options, "TRAIN.ENABLE", False])
    assert status == 2 and "1 of 10 videos could not be read" in errors
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["coverage"] for row in rows if row["split"] == "test_final"] == [90.0, 90.0]
    for name, good in zip(bad[:2], trained[3:], strict=False):  # both repaired: the next start uses them
        shutil.copy(data / "videos" / good, data / "videos" / name)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    status, _, errors = run_net([*options, "TEST.ENABLE", False])
    assert status == 0 and "bad_files.txt has 3 unreadable videos: 2 there now or changed, tried again" in errors
    assert "replaced:" not in errors and "1 unchanged, skipped" in errors
    listed = (tmp_path / "run" / "bad_files.txt").read_text().splitlines()
    assert [os.path.basename(line.split("\t")[0]) for line in listed] == [os.path.basename(bad[2])]
    shutil.rmtree(tmp_path / "run")
    status, _, errors = run_net([*options, "DATA.MAX_BAD_FRACTION", 0.05])
    assert status == 2 and "MAX_BAD_FRACTION" in errors and "Traceback" not in errors


def test_a_mount_that_was_away_for_a_while(tiny, run_net, tmp_path):
    data = tmp_path / "data"
    load_script("datasets/make_demo.py").make_demo(data, train=16, val=8, seed=5, size=40, frames=16)
    options = [
        *tiny,
        "DATA.PATH_TO_DATA_DIR",
        str(data),
        "DATA.PATH_PREFIX",
        str(data / "videos"),
        "SOLVER.MAX_EPOCH",
        1,
    ]
    os.rename(data / "videos", data / "away")
    status, _, errors = run_net([*options, "TEST.ENABLE", False])
    assert status == 2 and "if a disk or mount is away, start again once it is back" in errors
    assert not (tmp_path / "run").exists()
    os.mkdir(data / "videos")
    os.rename(data / "away" / "left", data / "videos" / "left")
    status, _, errors = run_net([*options, "TEST.ENABLE", False])
    assert status == 2 and "start again once it is back" in errors
    status, _, errors = run_net([*options, "TEST.ENABLE", False])
    assert status == 2 and "are not there now: if a disk or mount is away" in errors
    for folder in (data / "away").iterdir():
        os.rename(folder, data / "videos" / folder.name)
    status, _, errors = run_net([*options, "TEST.ENABLE", False])
    assert status == 0 and "there now or changed, tried again" in errors and "replaced:" not in errors
    assert (tmp_path / "run" / "bad_files.txt").read_text() == ""


def test_a_log_names_the_first_bad_videos_of_an_epoch_and_counts_the_others(tiny, run_net, tmp_path):
    data = tmp_path / "data"
    load_script("datasets/make_demo.py").make_demo(data, train=16, val=8, seed=5, size=40, frames=16)
    for line in (data / "train.csv").read_text().splitlines()[:6]:
        (data / "videos" / line.rsplit(" ", 1)[0]).write_bytes(b"")
    options = [*tiny, "DATA.PATH_TO_DATA_DIR", str(data), "DATA.PATH_PREFIX", str(data / "videos")]
    options += ["TEST.ENABLE", False, "SOLVER.MAX_EPOCH", 1, "DATA.MAX_BAD_FRACTION", 0.5]
    status, _, errors = run_net(options)
    lines = [line.split("warning: ", 1)[1] for line in errors.splitlines() if "replaced" in line]
    assert status == 0 and all(line.startswith("replaced by another video: cannot read") for line in lines[:3]), errors
    assert lines[3:] == [
        f"further videos that are replaced in this epoch are only listed in {tmp_path / 'run' / 'bad_files.txt'}",
        "replaced in this epoch: 6 unreadable videos",
    ]
    assert len((tmp_path / "run" / "bad_files.txt").read_text().splitlines()) == 6
    status, _, errors = run_net([*options, "DATA.MAX_BAD_FRACTION", 0.2, "TRAIN.AUTO_RESUME", False])
    assert (
        status == 2
        and errors.count("replaced by another video: cannot read") <= 3
        and errors.splitlines()[-1].startswith("Check")
    )
