"""tools/benchmarks/decode.py on a small video."""

import subprocess
import sys

from conftest import ROOT, load_script
from video_factory import write_video

FEW = "--positions 1 --repeats 1 --reads 50 --kills 1".split()


def test_speed_is_compared(tmp_path, monkeypatch, capsys):
    video = write_video(tmp_path / "video.mp4", frames=70)  # longer than 16 frames of stride 4
    monkeypatch.setattr(sys, "argv", ["bench_decode.py", "speed", "--videos", str(video), *FEW])
    load_script("tools/benchmarks/decode.py").main()
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:3] == ["geometric", "mean,", "relative"] and float(last[3]) == 1.0


def test_leaks_are_looked_for(tmp_path):
    video = write_video(tmp_path / "video.mp4")
    # in a process of its own: it expects to have no other children than those that it kills
    command = [sys.executable, str(ROOT / "tools/benchmarks/decode.py"), "leak", "--videos", str(video), *FEW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "after 1 killed readers: " in done.stdout
