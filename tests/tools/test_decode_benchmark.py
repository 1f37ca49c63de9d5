"""tools/benchmarks/decode.py on a small video."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, load_script
from video_factory import write_video

FEW = "--positions 1 --repeats 1 --reads 50 --kills 1".split()


def test_speed_against_baselines(tmp_path, monkeypatch, capsys):
    video = write_video(tmp_path / "video.mp4", frames=70)  # longer than 16 frames of stride 4
    monkeypatch.setattr(sys, "argv", ["decode.py", "speed", "--videos", str(video), *FEW])
    load_script("tools/benchmarks/decode.py").main()
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:3] == ["geometric", "mean,", "relative"] and float(last[3]) == 1.0


def test_speed_as_json(tmp_path, monkeypatch, capsys):
    video = write_video(tmp_path / "video.mp4", frames=70)
    monkeypatch.setattr(sys, "argv", ["decode.py", "speed", "--videos", str(video), *FEW, "--json"])
    load_script("tools/benchmarks/decode.py").main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["video"], row["sampling"]) for row in rows] == [("video.mp4", "dense"), ("video.mp4", "sparse")]
    assert all(row["read_frames"] > 0 and row["pyav_seek"] > 0 for row in rows)


def test_reads_are_followed_by_what_the_process_holds(tmp_path):
    videos = [str(write_video(tmp_path / "video.mp4")), str(tmp_path / "missing.mp4")]
    figures = load_script("tools/benchmarks/decode.py").mixed_reads(videos, 20)
    assert len(figures) == 10 and all(memory > 0 and threads > 0 and files > 0 for memory, threads, files in figures)


@pytest.mark.slow
def test_leaks(tmp_path):
    video = write_video(tmp_path / "video.mp4")
    # in a new process, which must have no child processes but those that it kills
    command = [sys.executable, str(ROOT / "tools/benchmarks/decode.py"), "leak", "--videos", str(video), *FEW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "after 1 killed readers: " in done.stdout
