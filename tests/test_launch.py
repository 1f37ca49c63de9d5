"""What becomes of a run when ranks are missing, die, hang, or come and go."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_recovery import LONG, ROOT, end, finish, record, said, start, steps_done, until
from torch.distributed import DistNetworkError

from slowfast_uniformer.distributed.launch import _free_port
from slowfast_uniformer.distributed.status import is_communication_error


@pytest.fixture
def machines(tiny, tmp_path):
    """A function that starts machine k of two of a long run, one process each; all end with the test."""
    started = []

    def start_one(k: int, port: int, *options) -> tuple[subprocess.Popen, Path]:
        out = tmp_path / f"machine{k}"
        options = [*tiny, *LONG, "SOLVER.MAX_EPOCH", 1000, "NUM_SHARDS", 2, "SHARD_ID", k, *options]
        started.append(start(options, out, arguments=["--init_method", f"tcp://127.0.0.1:{port}"]))
        return started[-1], out

    yield start_one
    for process in started:
        end(process)


def error_of(process: subprocess.Popen, out: Path) -> str:
    """The one line that a run ends with."""
    status, errors = finish(process, out)
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and "Traceback" not in errors, errors
    return line


def test_a_rank_that_does_not_come_is_named(machines):
    assert "after 3 s (DIST_TIMEOUT) there is no rank 1 of 2" in error_of(*machines(0, _free_port(), "DIST_TIMEOUT", 3))


def test_a_port_in_use_is_named(machines):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert re.search(f"{port}: that port is in use", error_of(*machines(0, port)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_when_one_rank_dies_or_hangs_the_others_say_so_and_end(machines, number):
    port = _free_port()
    (first, out), (second, _) = (machines(k, port, "DIST_TIMEOUT", 15) for k in range(2))
    until(lambda: steps_done(out) >= 2)
    os.kill(second.pid, number)
    begun = time.monotonic()
    line = error_of(first, out)
    assert "another rank has ended or hangs" in line and "Last known: rank 1 on " in line
    assert re.search(r"rank 1 on \S+: (step|loading)", line) and "continues from its newest" in line
    assert time.monotonic() - begun < (60 if number == signal.SIGSTOP else 15)
    if number == signal.SIGSTOP:
        assert re.search("warning: no progress for .* rank 1 on ", said(out))


@pytest.mark.parametrize(
    "error, expected",
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:3466"), True),
        (RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 15000ms for recv"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (DistNetworkError("failed to recv, got 0 bytes. Did the remote server shutdown or crash?"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), False),
        (RuntimeError("DataLoader timed out after 3 seconds"), False),
    ],
)
def test_failed_exchanges_are_told_from_other_errors(error, expected):
    assert is_communication_error(error) == expected


def test_machines_that_come_and_go(tiny, tmp_path):
    """Elastic torchrun: two machines, then one, then two again; every restart continues, and the figures of
    all steps are there once."""
    out, port = tmp_path / "run", _free_port()
    options = [*tiny, *LONG, "SOLVER.MAX_EPOCH", 1000, "OUTPUT_DIR", out]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc_per_node", "1"]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_id", "test", "--rdzv_endpoint", f"127.0.0.1:{port}"]
    launcher += ["--max_restarts", "9", "--rdzv_conf", "last_call_timeout=2,keep_alive_interval=1"]
    command = [*launcher, str(ROOT / "tools/run_net.py"), "--cfg", str(ROOT / "tests/empty.yaml")]

    # Without the second, torchrun does not tell a machine that comes later where the others are.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def machine(name: str) -> subprocess.Popen:
        with open(f"{out}.{name}", "w") as errors:
            return subprocess.Popen([*command, *map(str, options)], stderr=errors, env=environment)

    def ranks() -> list[int]:
        path = out / "starts.jsonl"
        return [int(n) for n in re.findall(r'"ranks": (\d)', path.read_text())] if path.exists() else []

    first = machine("first")
    time.sleep(1)  # it must be the one that keeps the meeting place
    second = machine("second")
    try:
        until(lambda: ranks()[-1:] == [2] and steps_done(out) >= 1)
        end(second)
        until(lambda: ranks()[-1] == 1 and steps_done(out) >= 3)
        before = steps_done(out)
        second = machine("third")
        until(lambda: len(ranks()) >= 3 and ranks()[-1] == 2)
        until(lambda: steps_done(out) >= before + 4)
    finally:
        end(first)
        end(second)
    steps = [row["step"] for row in record(out) if row["split"] == "train_iter"]
    assert steps == sorted(set(steps)), "no repeat"
    epochs = [row["epoch"] for row in record(out) if row["split"] == "train_epoch"]
    assert epochs == list(range(1, len(epochs) + 1)), "no gap"
