"""What becomes of a run when ranks are missing, die, hang, or come and go."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch.distributed as dist
from conftest import ROOT
from processes import LONG_RUN, finish, kill, pairs, record, start, stderr_of, steps_done, until

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import launch, status, topology
from slowfast_uniformer.errors import UserError


@pytest.fixture
def rank_0_of_2(monkeypatch):
    """The environment of rank 0 of two machines."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    topology.set_rank_env(0, 1, 2, 0)


def test_a_missing_rank_is_named(rank_0_of_2):
    address = f"tcp://127.0.0.1:{launch._free_port()}"
    with pytest.raises(UserError, match=r"after 0.5 s \(DIST_TIMEOUT\) these of 2 ranks are missing: 1"):
        launch._rendezvous(address, timedelta(seconds=0.5))


def test_a_port_in_use_is_named(rank_0_of_2):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"{port}: the port is in use"):
            launch._rendezvous(f"tcp://127.0.0.1:{port}", timedelta(seconds=2))


def test_a_process_launches_twice_on_the_same_port():
    """Code under srun trains and then tests, or trains on folds: the port follows from the job."""
    cfg, address, ranks = load_config(None, ["NUM_GPUS", 0]), f"tcp://127.0.0.1:{launch._free_port()}", []
    for _ in range(2):
        launch._run_in_group(lambda _: ranks.append(dist.get_rank()), cfg, address)
    assert ranks == [0, 0] and not dist.is_initialized()

    def fails(cfg) -> None:
        raise UserError("stopped")

    with pytest.raises(UserError, match="stopped"):
        launch._run_in_group(fails, cfg, address)
    assert not launch._STORES, "after an error the ranks meet anew"
    launch._run_in_group(lambda _: ranks.append(dist.get_rank()), cfg, address)
    assert ranks == [0, 0, 0]


def test_rank_variables_are_put_back_after_a_launch(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM") or name in topology.RANK_VARIABLES]:
        monkeypatch.delenv(name)
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
    task |= {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "7"}
    for name, value in task.items():
        monkeypatch.setenv(name, value)
    seen = []
    run = lambda fn, cfg, init_method: seen.append((topology.rank(), topology.world_size(), init_method))  # noqa: E731
    monkeypatch.setattr(launch, "_run_in_group", run)
    for _ in range(2):
        launch.launch(print, load_config(None, ["NUM_GPUS", 0]))
        assert "RANK" not in os.environ and "WORLD_SIZE" not in os.environ
    assert seen[0] == seen[1] and seen[0][:2] == (1, 2) and seen[0][2].startswith("tcp://")


def test_machines_without_a_launcher_need_an_address(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM") or name == "RANK"]:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="NUM_SHARDS: 2 machines need --init_method"):
        launch.launch(print, load_config(None, ["NUM_GPUS", 0, "NUM_SHARDS", 2]))


@pytest.fixture
def statuses(rank_0_of_2, monkeypatch):
    """The store of a process group of two; this process is rank 0, and rank 1 has set a status."""
    store = dist.HashStore()
    status.attach(store)
    status.set_status("step 7")
    monkeypatch.setenv("RANK", "1")
    status.set_status("loading the batch of step 7")
    monkeypatch.setenv("RANK", "0")
    yield store
    status.attach(None)


def test_a_lost_rank_is_explained(statuses):
    text = status.explain_lost_rank(RuntimeError("[/gloo/pair.cc:534] Connection closed by peer [10.0.0.1]:3466"))
    host = socket.gethostname()
    assert text.startswith(f"rank 0 on {host}: another rank has ended or hangs (Connection closed by peer")
    assert f"Last known: rank 1 on {host}: loading the batch of step 7." in text and "from its latest" in text


def test_a_rank_without_progress_is_named_once(statuses, monkeypatch, caplog):
    ended = Mock()
    ended.wait.side_effect = [False] * 6 + [True]
    monkeypatch.setattr(time, "monotonic", iter(range(0, 1000, 10)).__next__)
    read = status.read_statuses

    def read_while_rank_0_goes_on(store, world):
        status.set_status(f"step {time.perf_counter()}")
        return read(store, world)

    monkeypatch.setattr(status, "read_statuses", read_while_rank_0_goes_on)
    status.watch(statuses, 2, timeout=40, ended=ended)
    (line,) = caplog.messages
    assert re.match(r"no progress for \d+ s: rank 1 on \S+: loading the batch of step 7", line)


@pytest.mark.parametrize(
    "error, expected",
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:3466"), True),
        (RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 15000ms for recv"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (dist.DistNetworkError("failed to recv, got 0 bytes. Did the remote server shutdown or crash?"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), False),
        (RuntimeError("DataLoader timed out after 3 seconds"), False),
    ],
)
def test_communication_errors_are_told_from_others(error, expected):
    assert status.is_communication_error(error) == expected


# --------------------------------------------------------------------------------------------- processes
@pytest.fixture
def machines(tiny, tmp_path):
    """A function that starts machine k of two of a long run, one process each; all end with the test."""
    started = []

    def start_one(k: int, port: int, *options) -> tuple[subprocess.Popen, Path]:
        out = tmp_path / f"machine{k}"
        options = [*tiny, *pairs(LONG_RUN), "SOLVER.MAX_EPOCH", 1000, "NUM_SHARDS", 2, "SHARD_ID", k, *options]
        started.append(start(options, out, arguments=["--init_method", f"tcp://127.0.0.1:{port}"]))
        return started[-1], out

    yield start_one
    for process in started:
        kill(process)


def error_of(process: subprocess.Popen, out: Path) -> str:
    """The one line that a run ends with."""
    code, errors = finish(process, out)
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2 and "Traceback" not in errors, errors
    return line


@pytest.mark.slow
def test_the_command_names_a_missing_rank(machines):
    line = error_of(*machines(0, launch._free_port(), "DIST_TIMEOUT", 3))
    assert "after 3 s (DIST_TIMEOUT) these of 2 ranks are missing: 1" in line


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_when_one_rank_dies_or_hangs_the_others_end_with_an_error(machines, number):
    port = launch._free_port()
    (first, out), (second, _) = (machines(k, port, "DIST_TIMEOUT", 15) for k in range(2))
    until(lambda: steps_done(out) >= 2)
    os.kill(second.pid, number)
    begun = time.monotonic()
    line = error_of(first, out)
    assert "another rank has ended or hangs" in line and "Last known: rank 1 on " in line
    assert re.search(r"rank 1 on \S+: (step|loading)", line) and "continues from its latest" in line
    assert time.monotonic() - begun < (60 if number == signal.SIGSTOP else 15)
    if number == signal.SIGSTOP:
        assert re.search("warning: no progress for .* rank 1 on ", stderr_of(out))


@pytest.mark.slow
def test_machines_that_come_and_go(tiny, tmp_path):
    """Elastic torchrun: two machines, then one, then two again. Every restart continues, and the metrics of all steps
    are recorded once."""
    out, port = tmp_path / "run", launch._free_port()
    options = [*tiny, *pairs(LONG_RUN), "SOLVER.MAX_EPOCH", 1000, "OUTPUT_DIR", out]
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
    time.sleep(1)  # it must be the one that keeps the rendezvous store
    second = machine("second")
    try:
        until(lambda: ranks()[-1:] == [2] and steps_done(out) >= 1)
        kill(second)
        until(lambda: ranks()[-1] == 1 and steps_done(out) >= 3)
        before = steps_done(out)
        second = machine("third")
        until(lambda: len(ranks()) >= 3 and ranks()[-1] == 2)
        until(lambda: steps_done(out) >= before + 4)
    finally:
        kill(first)
        kill(second)
    steps = [row["step"] for row in record(out) if row["split"] == "train_iter"]
    assert steps == sorted(set(steps)), "no repeat"
    epochs = [row["epoch"] for row in record(out) if row["split"] == "train_epoch"]
    assert epochs == list(range(1, len(epochs) + 1)), "no gap"


def test_a_restart_by_torchrun_does_not_find_the_addresses_of_dead_ranks(monkeypatch):
    """On one machine torchrun keeps its store when it starts the ranks again."""
    kept = dist.HashStore()
    monkeypatch.setattr(launch, "_STORES", {})
    monkeypatch.setattr(launch.dist, "rendezvous", lambda *_, **__: iter([(kept, 0, 1)]))
    found = []
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        monkeypatch.setattr(launch, "_LAUNCHES", itertools.count())  # as in a new process
        store = launch._rendezvous("env://", timedelta(seconds=5))
        found.append(store.check(["group/address"]))
        store.set("group/address", attempt)
    assert found == [False, False]
