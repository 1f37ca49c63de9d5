"""A run that is interrupted, killed or short of space, and started again, ends as if nothing had happened.

KILLS sets how often the killed runs are killed: KILLS=30 python -m pytest tests/test_recovery.py -k killed
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from slowfast_uniformer.distributed import signals
from slowfast_uniformer.runs import checkpoints

ROOT = Path(__file__).resolve().parents[1]
TIMES = {"clips_per_second", "data_wait_percent", "memory_mb", "eta_seconds", "checkpoint"}
LONG = [
    "SOLVER.MAX_EPOCH",
    40,
    "TRAIN.CHECKPOINT_STEPS",
    1,
    "MIXUP.ENABLE",
    True,
    "MODEL.EMA_EPOCH",
    1,
    "UNIFORMER.DROP_DEPTH_RATE",
    0.3,
    "TRAIN.BATCH_SIZE",
    4,
    "LOG_PERIOD",
    3,
]


def start(options: list, out: Path, ranks: int = 1, arguments: list = ()) -> subprocess.Popen:
    """run_net.py on the CPU in a process group of its own, alone or under torchrun."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [*launcher, str(ROOT / "tools/run_net.py"), *arguments, "--cfg", str(ROOT / "tests/empty.yaml")]
    options = [*map(str, options), "OUTPUT_DIR", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(f"{out}.err", "w") as errors:
        return subprocess.Popen([*command, *options], stderr=errors, env=environment, start_new_session=True)


def finish(process: subprocess.Popen, out: Path) -> tuple[int, str]:
    """Exit status and what was written to standard error."""
    try:
        process.wait(timeout=300)
    finally:
        end(process)
    return process.returncode, said(out)


def said(out: Path) -> str:
    return Path(f"{out}.err").read_text()


def family(pid: int) -> list[int]:
    """A process and its descendants; torchrun's are in process groups of their own."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def send(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a run's processes, all at once."""
    for pid in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end(process: subprocess.Popen) -> None:
    """Kill all of a run."""
    send(process, signal.SIGKILL)
    process.wait()


def until(condition, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def record(out: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on time."""
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def steps_done(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("train_iter") if path.exists() else 0


def same_end(one: Path, other: Path) -> None:
    """Both runs have reported the same and ended with the same weights."""
    assert record(one) == record(other)
    states = [checkpoints.load_checkpoint(checkpoints.latest(str(out))) for out in (one, other)]
    for part in ("model_state", "ema_state"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])
    moments = [state["optimizer_state"]["state"] for state in states]
    assert all(torch.equal(moments[0][n][k], moments[1][n][k]) for n in moments[0] for k in moments[0][n])


@pytest.fixture
def undisturbed(tiny, tmp_path):
    """A function that makes the run which nothing disturbs; returns its folder."""

    def make(ranks: int) -> Path:
        out = tmp_path / "undisturbed"
        status, errors = finish(start([*tiny, *LONG], out, ranks), out)
        assert status == 0, errors
        return out

    return make


@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGTERM), (1, signal.SIGUSR1), (2, signal.SIGTERM)])
def test_a_signal_ends_a_run_that_then_continues(tiny, tmp_path, undisturbed, ranks, number):
    out = tmp_path / "run"
    options = [*tiny, *LONG, "TRAIN.CHECKPOINT_STEPS", 0, "TRAIN.CHECKPOINT_PERIOD", 100, "DATA_LOADER.NUM_WORKERS", 1]
    process = start(options, out, ranks)
    until(lambda: steps_done(out) >= 2)
    send(process, number)  # to loaders and launchers, too, as SLURM does
    status, errors = finish(process, out)
    assert "writing a checkpoint" in errors and "Traceback" not in errors.split("torch/distributed")[0]
    if ranks == 1:
        assert status == signals.EXIT_CODE
    (written,) = checkpoints.list_checkpoints(str(out))
    assert checkpoints.load_checkpoint(written)["step"] >= steps_done(out)
    status, errors = finish(start(options, out, ranks), out)
    assert status == 0 and f"continuing {written}" in errors
    same_end(undisturbed(ranks), out)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_continues(tiny, tmp_path, undisturbed, ranks):
    reference, out, draw = undisturbed(ranks), tmp_path / "run", random.Random(ranks)
    options, killed = [*tiny, *LONG, "DATA_LOADER.NUM_WORKERS", 1], set()
    for _ in range(int(os.environ.get("KILLS", 2))):
        process, before = start(options, out, ranks), steps_done(out)
        until(lambda p=process, n=before: p.poll() is not None or steps_done(out) > n or draw.random() < 1e-3)
        time.sleep(draw.uniform(0, 0.3))
        assert process.poll() in (None, 0)
        killed |= set(family(process.pid))
        end(process)
        for path in checkpoints.list_checkpoints(str(out)):
            assert not checkpoints.find_damage(path), "renamed before it was whole"
        if steps_done(out) >= 40:  # there would be little left to disturb
            for path in checkpoints.list_checkpoints(str(out))[draw.randrange(3) :]:
                os.remove(path)
    status, errors = finish(start([*tiny, *LONG], out, ranks), out)
    assert status == 0, errors
    same_end(reference, out)
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in killed))
    shared = {number for name in os.listdir("/dev/shm") for number in re.findall(r"\d+", name)}
    assert not shared & set(map(str, killed))
    assert not [name for name in os.listdir(out / "checkpoints") if name.endswith(".tmp")]


def test_a_second_signal_ends_at_once(tiny, tmp_path):
    out = tmp_path / "run"
    process = start([*tiny, *LONG, "SOLVER.MAX_EPOCH", 1000], out)
    until(lambda: steps_done(out))
    os.kill(process.pid, signal.SIGSTOP)  # so that the first is still being answered when the second comes
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    try:
        time.sleep(0.01)
        while process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.1)
    except ProcessLookupError:
        pass
    assert finish(process, out)[0] in (signals.EXIT_CODE, -signal.SIGTERM)


def test_a_full_disk_stops_nothing_until_the_end(tiny, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        out, filler = tmp_path / "run", disk / "filler"
        out.symlink_to(disk)
        process = start([*tiny, *LONG, "TENSORBOARD.ENABLE", True], out)
        until(lambda: steps_done(out) >= 4)
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 12)):
                    pass
            except OSError:
                pass
        done = steps_done(out)
        until(lambda: "The run goes on" in said(out) or process.poll() is not None)
        last = checkpoints.latest(str(out))
        assert last and steps_done(out) <= done + 1
        os.remove(filler)
        status, errors = finish(process, out)
        assert status == 0, errors
        rows = record(out)
        assert [row["step"] for row in rows if row["split"] == "train_iter"][-1] == 160
        steps = [row["iter"] for row in rows if row["split"] == "train_iter"]
        assert steps == [3, 4] * 40, "no row is lost"
        assert checkpoints.load_checkpoint(checkpoints.latest(str(out)))["epoch"] == 40
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        shutil.rmtree(disk, ignore_errors=True)
