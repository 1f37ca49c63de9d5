"""A run that is interrupted, killed or short of disk space, and started again, ends as if nothing had happened.

The slow tests do it to processes. KILLS sets how often the killed runs are killed:
KILLS=30 python -m pytest tests/engine/test_recovery.py -k killed
"""

import errno
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import tiny_overrides
from processes import (
    LONG_RUN,
    ON_SIGNAL,
    assert_same_end,
    family,
    finish,
    kill,
    pairs,
    record,
    send,
    start,
    stderr_of,
    steps_done,
    until,
)

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine import train as training
from slowfast_uniformer.runs import checkpoints, recorder

SHORT_RUN = [*pairs(LONG_RUN), "SOLVER.MAX_EPOCH", 3]  # of 12 steps


class Killed(BaseException):
    """The process has ended without a chance to react."""


@pytest.fixture(scope="module")
def short(demo, tmp_path_factory):
    """An uninterrupted short run; its folder."""
    out = tmp_path_factory.mktemp("short") / "run"
    training.train(load_config(None, [*tiny_overrides(demo, out), *SHORT_RUN]))
    return out


def before_step(monkeypatch, number: int, action) -> None:
    """Call `action` before optimizer step `number` of a process, counted from 1."""
    count = iter(range(1, 1000))

    def step(*args):
        if next(count) == number:
            action()
        return training_step(*args)

    training_step = training.training_step
    monkeypatch.setattr(training, "training_step", step)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_resumes_bit_exactly(tiny, tmp_path, short, monkeypatch, caplog, workers):
    cfg = load_config(None, [*tiny, *SHORT_RUN, *pairs(ON_SIGNAL), "DATA_LOADER.NUM_WORKERS", workers])
    out = tmp_path / "run"
    caplog.set_level(logging.INFO)
    handlers = [signal.getsignal(number) for number in signals.SIGNALS]
    with monkeypatch.context() as patched, pytest.raises(signals.Interrupted), signals.handle_signals():
        before_step(patched, 6, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        training.train(cfg)
    assert [signal.getsignal(number) for number in signals.SIGNALS] == handlers
    (written,) = checkpoints.list_checkpoints(str(out))
    assert checkpoints.load_checkpoint(written)["step"] == 6 and "writing a checkpoint" in caplog.text
    training.train(cfg)
    assert f"continuing {written}" in caplog.text
    assert_same_end(short, out)


def test_a_run_that_ends_without_warning_resumes_bit_exactly(tiny, tmp_path, short, monkeypatch):
    cfg = load_config(None, [*tiny, *SHORT_RUN])

    def die() -> None:
        raise Killed

    for step in (3, 4):  # steps 3 and 6 of the run
        with monkeypatch.context() as patched, pytest.raises(Killed):
            before_step(patched, step, die)
            training.train(cfg)
    assert record(tmp_path / "run")[-1]["step"] == 4
    (tmp_path / "run" / "checkpoints" / ".1.epoch_00001_step_00000006.pyth").touch()
    training.train(cfg)
    assert_same_end(short, tmp_path / "run")
    names = os.listdir(tmp_path / "run" / "checkpoints")
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".")]


def test_a_run_that_ends_in_a_validation_validates_again(tiny, tmp_path, short, monkeypatch):
    """The first is interrupted by a signal, and the second killed."""
    cfg, validate = load_config(None, [*tiny, *SHORT_RUN]), training.evaluate

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*args)

    def killed(*args):
        raise Killed

    for ending, expected in ((signalled, signals.Interrupted), (killed, Killed)):
        with monkeypatch.context() as patched, pytest.raises(expected), signals.handle_signals():
            patched.setattr(training, "evaluate", ending)
            training.train(cfg)
        state = checkpoints.load_checkpoint(checkpoints.latest(str(tmp_path / "run")))
        assert (state["step"], state["closed"]) == (4, 0), "all steps of the epoch, and no validation"
    training.train(cfg)
    assert_same_end(short, tmp_path / "run")


def test_a_full_disk_stops_training_at_its_end_only(tiny, tmp_path, short, monkeypatch, caplog):
    out, full, latest = tmp_path / "run", [], []
    save, append = torch.save, recorder.append_json_lines

    def unless_full(write):
        def call(*args, **options):
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*args, **options)

        return call

    def fill() -> None:
        latest.append(checkpoints.latest(str(out)))
        full.append(True)

    monkeypatch.setattr(torch, "save", unless_full(save))
    monkeypatch.setattr(recorder, "append_json_lines", unless_full(append))
    with monkeypatch.context() as patched:
        before_step(patched, 4, fill)
        before_step(patched, 8, full.clear)
        training.train(load_config(None, [*tiny, *SHORT_RUN]))
    assert "Training continues" in caplog.text and latest[0]
    assert_same_end(short, out)
    rows = [row["iter"] for row in record(out) if row["split"] == "train_iter"]
    assert rows == [3, 4] * 3, "no row is lost"

    full.append(True)
    with pytest.raises(Exception, match="No space left on device"):
        training.train(load_config(None, [*tiny, *SHORT_RUN, "OUTPUT_DIR", str(tmp_path / "other")]))


# --------------------------------------------------------------------------------------------- processes
@pytest.fixture(scope="module")
def undisturbed(demo, tmp_path_factory):
    """A function that makes the run which nothing disturbs, once for each number of ranks and options; returns its
    folder."""
    made = {}

    def make(ranks: int, *options):
        if (ranks, options) not in made:
            out = tmp_path_factory.mktemp("undisturbed") / "run"
            status, errors = finish(start([*tiny_overrides(demo, out), *pairs(LONG_RUN), *options], out, ranks), out)
            assert status == 0, errors
            made[ranks, options] = out
        return made[ranks, options]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGTERM), (1, signal.SIGUSR1), (2, signal.SIGTERM)])
def test_a_signal_ends_a_run_that_then_continues(tiny, tmp_path, undisturbed, ranks, number):
    out = tmp_path / "run"
    options = [*tiny, *pairs(LONG_RUN, ON_SIGNAL)]
    process = start(options, out, ranks)
    until(lambda: steps_done(out) >= 2)
    send(process, number)  # to DataLoader workers and launchers, too, as SLURM does
    status, errors = finish(process, out)
    assert "writing a checkpoint" in errors and "Traceback" not in errors.split("torch/distributed")[0]
    if ranks == 1:
        assert status == signals.EXIT_CODE
    (written,) = checkpoints.list_checkpoints(str(out))
    assert checkpoints.load_checkpoint(written)["step"] >= steps_done(out)
    status, errors = finish(start(options, out, ranks), out)
    assert status == 0 and f"continuing {written}" in errors
    assert_same_end(undisturbed(ranks), out)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "device"), [(1, "cpu"), (2, "cpu"), (1, "device"), (2, "device")])
def test_a_killed_run_continues(tiny, tmp_path, undisturbed, ranks, device):
    augmented = () if device == "cpu" else ("AUG.ENABLE", True, "AUG.DEVICE", device)
    reference, out, draw = undisturbed(ranks, *augmented), tmp_path / "run", random.Random(ranks)
    tiny = [*tiny, *pairs(LONG_RUN), *augmented]
    options, killed = [*tiny, "DATA_LOADER.NUM_WORKERS", 1], set()
    for _ in range(int(os.environ.get("KILLS", 2))):
        process, before = start(options, out, ranks), steps_done(out)
        until(lambda p=process, n=before: p.poll() is not None or steps_done(out) > n or draw.random() < 1e-3)
        time.sleep(draw.uniform(0, 0.3))
        assert process.poll() in (None, 0)
        killed |= set(family(process.pid))
        kill(process)
        for path in checkpoints.list_checkpoints(str(out)):
            assert not checkpoints.find_damage(path), "renamed before it was whole"
        if steps_done(out) >= 8:  # there would be little left to disturb
            for path in checkpoints.list_checkpoints(str(out))[draw.randrange(3) :]:
                os.remove(path)
    status, errors = finish(start(tiny, out, ranks), out)
    assert status == 0, errors
    assert_same_end(reference, out)
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in killed))
    shared = {number for name in os.listdir("/dev/shm") for number in re.findall(r"\d+", name)}
    assert not shared & set(map(str, killed))
    names = os.listdir(out / "checkpoints")
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".")]


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tiny, tmp_path):
    out = tmp_path / "run"
    process = start([*tiny, *pairs(LONG_RUN), "SOLVER.MAX_EPOCH", 1000], out)
    until(lambda: steps_done(out))
    os.kill(process.pid, signal.SIGSTOP)  # so that the first is still being handled when the second comes
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


@pytest.mark.slow
def test_a_full_disk_stops_nothing_until_the_end(tiny, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        out, filler = tmp_path / "run", disk / "filler"
        out.symlink_to(disk)
        process = start([*tiny, *pairs(LONG_RUN), "SOLVER.MAX_EPOCH", 20, "TENSORBOARD.ENABLE", True], out)
        until(lambda: steps_done(out) >= 4)
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 12)):
                    pass
            except OSError:
                pass
        done = steps_done(out)
        until(lambda: "Training continues" in stderr_of(out) or process.poll() is not None)
        last = checkpoints.latest(str(out))
        assert last and steps_done(out) <= done + 1
        os.remove(filler)
        status, errors = finish(process, out)
        assert status == 0, errors
        rows = [row for row in record(out) if row["split"] == "train_iter"]
        assert rows[-1]["step"] == 80
        assert [row["iter"] for row in rows] == [3, 4] * 20, "no row is lost"
        assert checkpoints.load_checkpoint(checkpoints.latest(str(out)))["epoch"] == 20
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        shutil.rmtree(disk, ignore_errors=True)
