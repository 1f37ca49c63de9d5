"""Several processes do what one does. All on the CPU with gloo, started by torchrun as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def start(script: str, *arguments, processes: int = 0) -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if processes:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_take_the_steps_of_one(tiny, tmp_path):
    options = [
        *tiny,
        "UNIFORMER.DROP_DEPTH_RATE",
        0,
        "MODEL.USE_CHECKPOINT",
        True,
        "MODEL.CHECKPOINT_NUM",
        "[1,1,1,1]",
    ]
    start("tests/ddp_steps.py", tmp_path / "one.pt", *options)
    done = start("tests/ddp_steps.py", tmp_path / "two.pt", *options, "TRAIN.ACCUM_STEPS", 2, processes=2)
    assert "warn" not in done.stderr.lower(), done.stderr
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_testing_on_two_processes_gives_the_same_figures(tiny, demo, tmp_path):
    """Trains on two processes, then tests on one and on two: nine videos, which two does not divide."""
    options = ["--cfg", ROOT / "tests" / "empty.yaml", *tiny]
    done = start("tools/run_net.py", *options, processes=2)
    start("tools/run_net.py", *options, "TRAIN.ENABLE", False)
    assert "Warning" not in done.stderr, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    two, one = [row for row in rows if row["split"] == "test_final"]
    assert two["num_videos"] == one["num_videos"] == 9 and two["coverage"] == 100
    for name in ("top1_acc", "top5_acc", "mean_class_acc"):
        assert two[name] == one[name]
