"""Runs in processes of their own, alone or under torchrun: starting, signalling, ending and comparing them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from conftest import ROOT

from slowfast_uniformer.runs import checkpoints

TIMES = {"clips_per_second", "data_wait_percent", "memory_mb", "eta_seconds", "checkpoint"}
# Options of a run of some tens of steps, with every kind of state that a checkpoint must hold
LONG_RUN = {
    "SOLVER.MAX_EPOCH": 8,
    "TRAIN.CHECKPOINT_STEPS": 1,
    "MIXUP.ENABLE": True,
    "MODEL.EMA_EPOCH": 1,
    "UNIFORMER.DROP_DEPTH_RATE": 0.3,
    "TRAIN.BATCH_SIZE": 4,
    "LOG_PERIOD": 3,
}
# Checkpoints are written because of signals alone, and DataLoader workers get them, too
ON_SIGNAL = {"TRAIN.CHECKPOINT_STEPS": 0, "TRAIN.CHECKPOINT_PERIOD": 100, "DATA_LOADER.NUM_WORKERS": 1}


def pairs(*options: dict) -> list:
    """KEY VALUE arguments of several dicts."""
    return [item for section in options for pair in section.items() for item in pair]


def _command(ranks: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [sys.executable, *(launcher if ranks > 1 else [])]


def run_script(script: str, *arguments, processes: int = 1) -> subprocess.CompletedProcess:
    """Run a script of the checkout to its end, alone or under torchrun; it must succeed."""
    done = subprocess.run(
        [*_command(processes), str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def start(options: list, out: Path, ranks: int = 1, arguments: list = ()) -> subprocess.Popen:
    """Start run_net.py on the CPU in a process group of its own, alone or under torchrun."""
    command = [*_command(ranks), str(ROOT / "tools/run_net.py"), *arguments, "--cfg", str(ROOT / "tests/empty.yaml")]
    options = [*map(str, options), "OUTPUT_DIR", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(f"{out}.err", "w") as errors:
        return subprocess.Popen([*command, *options], stderr=errors, env=environment, start_new_session=True)


def finish(process: subprocess.Popen, out: Path) -> tuple[int, str]:
    """Wait for the end of a run; returns exit status and standard error."""
    try:
        process.wait(timeout=300)
    finally:
        kill(process)
    return process.returncode, stderr_of(out)


def stderr_of(out: Path) -> str:
    return Path(f"{out}.err").read_text()


def family(pid: int) -> list[int]:
    """A process and its descendants; torchrun's are in process groups of their own."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def send(process: subprocess.Popen, number: int) -> None:
    """Send a signal to all processes of a run at once."""
    for pid in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(process: subprocess.Popen) -> None:
    """Kill all processes of a run."""
    send(process, signal.SIGKILL)
    process.wait()


def until(condition, seconds: float = 200) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def record(out: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on time."""
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def steps_done(out: Path) -> int:
    """Rows of training steps so far."""
    path = out / "metrics.jsonl"
    return path.read_text().count("train_iter") if path.exists() else 0


def assert_same_end(one: Path, other: Path) -> None:
    """Both runs have recorded the same metrics and ended with the same weights and optimizer state."""
    assert record(one) == record(other)
    states = [checkpoints.load_checkpoint(checkpoints.latest(str(out))) for out in (one, other)]
    for part in ("model_state", "ema_state"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])
    moments = [state["optimizer_state"]["state"] for state in states]
    assert all(torch.equal(moments[0][n][k], moments[1][n][k]) for n in moments[0] for k in moments[0][n])
