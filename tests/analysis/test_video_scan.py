"""Reading videos in processes: results, the cache, and processes that die."""

import errno
import multiprocessing
import os
import tarfile

import pytest
from PIL import Image
from video_factory import X264, write_video

from slowfast_uniformer.analysis import video_scan
from slowfast_uniformer.analysis.video_scan import examine, make_job, scan_videos
from slowfast_uniformer.data import processes, video

TEMPLATE = "{:05d}.jpg"


def crash(job):
    """In place of `examine`: reading one video ends the process."""
    if "crash" in job.path:
        os._exit(1)
    return examine(job)


@pytest.fixture
def jobs(tmp_path):
    """Four videos, the second of which ends the process that reads it."""
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", frames=4, gop=number + 2, **X264)
    (tmp_path / "1.mp4").rename(tmp_path / "crash.mp4")
    paths = [str(tmp_path / name) for name in ("0.mp4", "crash.mp4", "2.mp4", "3.mp4")]
    return [make_job(path, TEMPLATE, None, 0) for path in paths]


def assert_only_the_crash_is_unreadable(jobs, cache):
    facts, read = scan_videos(jobs, str(cache), workers=2)
    assert read == len(jobs) and list(facts) == jobs
    assert "the process that reads it crashes" in facts[jobs[1]].pop("error") and not facts[jobs[1]]
    good = [facts[job] for job in jobs if job != jobs[1]]
    assert all(each["frames"] == 4 for each in good) and len({each["hash"] for each in good}) == len(good)
    assert scan_videos(jobs, str(cache), workers=2)[1] == 0, "all are in the cache"


def test_a_process_that_dies_costs_its_own_video_only(jobs, tmp_path, monkeypatch):
    """Processes are forked, which takes no imports."""
    monkeypatch.setattr(processes, "get_context", lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr(video_scan, "examine", crash)
    assert_only_the_crash_is_unreadable(jobs, tmp_path / "cache.jsonl")


@pytest.mark.slow
def test_a_spawned_process_that_dies_costs_its_own_video_only(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(video_scan, "examine", crash)
    assert_only_the_crash_is_unreadable(jobs[:2], tmp_path / "cache.jsonl")


def test_what_the_file_system_is_at_fault_for_is_read_again(jobs, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with monkeypatch.context() as patch:
        patch.setattr(video.os.path, "getsize", fail)
        facts, _ = scan_videos(jobs[:1], str(tmp_path / "cache.jsonl"), workers=0)
    assert "Input/output error" in facts[jobs[0]]["error"] and facts[jobs[0]]["away"]
    facts, read = scan_videos(jobs[:1], str(tmp_path / "cache.jsonl"), workers=0)
    assert read == 1 and facts[jobs[0]]["frames"] == 4


def test_a_frame_folder_needs_no_frame_count_and_no_template(tmp_path):
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "frames" / f"img_{number:04d}.png")
    facts = [examine(make_job(str(tmp_path / "frames"), TEMPLATE, listed, 0)) for listed in (None, 3)]
    assert facts[0] == facts[1] and (facts[0]["frames"], facts[0]["damaged"]) == (3, 0) and facts[0]["hash"]


def test_files_and_tar_members_have_the_same_facts(jobs, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(jobs[0].path, "a.mp4")
    member = make_job(str(tmp_path / "s.tar/a.mp4"), TEMPLATE, None, 0)
    assert examine(member) == examine(jobs[0])
    assert member.size == (tmp_path / "s.tar").stat().st_size and member.images is None
    assert make_job(str(tmp_path / "gone.mp4"), TEMPLATE, None, 0)[1:3] == (-1, 0)
    assert make_job(str(tmp_path / "gone"), TEMPLATE, 3, 0)[3:5] == (TEMPLATE, 3)
