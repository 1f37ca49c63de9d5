"""Two runs that meet in one OUTPUT_DIR: no checkpoint of one is deleted, tested or continued by the other.

Runs whose training and test only write and read files are killed at every moment, and started again.
"""

import itertools
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from processes import LONG_RUN, family, finish, pairs, steps_done, until
from processes import start as start_process

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine import job
from slowfast_uniformer.engine.test import checkpoint_to_test
from slowfast_uniformer.runs import begin, checkpoints
from slowfast_uniformer.runs.files import append_json_lines, read_json_lines
from slowfast_uniformer.runs.log import remove_logging
from slowfast_uniformer.runs.recorder import Recorder

EPOCHS, KEEP = 4, 2
KNOWN = {*begin.FILES, ".lock"}


class Killed(BaseException):
    """The process has ended without a chance to react."""


class Life:
    """Counts the moments at which a process could be killed, and ends it at the chosen one."""

    def __init__(self):
        self.left = -1  # never

    def moment(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def __call__(self, function):
        def call(*args, **options):
            self.moment()
            return function(*args, **options)

        return call


@pytest.fixture
def life(monkeypatch):
    """Replaces training and test by ones of files alone."""
    life, written = Life(), itertools.count(1)

    def train(cfg, own, small):
        if own is None and cfg.TRAIN.AUTO_RESUME:
            own = checkpoints.latest(cfg.OUTPUT_DIR)
        done = 0
        if own:
            state = checkpoints.load_checkpoint(own)
            done = state["epoch"]
            assert state["run"] == cfg.RNG_SEED or cfg.TRAIN.AUTO_RESUME, "continues another run"
        recorder = Recorder(cfg.OUTPUT_DIR, False, 0)
        recorder.resume(done, done)
        saver = checkpoints.CheckpointSaver(cfg.OUTPUT_DIR, KEEP)
        for epoch in range(done + 1, EPOCHS + 1):
            life.moment()
            row = {"step": epoch, "split": "val_epoch", "epoch": epoch, "top1_acc": 100.0 - epoch, "run": cfg.RNG_SEED}
            append_json_lines(recorder.path, row)
            run = state["run"] if own else cfg.RNG_SEED
            state_now = {"model_state": {"w": torch.tensor(next(written))}, "optimizer_state": {}, "epoch": epoch}
            best = [checkpoints.best_path(cfg.OUTPUT_DIR)] if epoch == 1 else []
            path = checkpoints.checkpoint_path(cfg.OUTPUT_DIR, epoch)
            saver.save([path, *best], {**state_now, "run": run})
            saver.finish(raise_on_failure=True)
            assert os.path.exists(path), "a run's own checkpoint is deleted"

    def test(cfg, small):
        life.moment()
        path = checkpoint_to_test(cfg)
        row = {"step": 0, "split": "test_final", "checkpoint": path, "run": checkpoints.load_checkpoint(path)["run"]}
        append_json_lines(os.path.join(cfg.OUTPUT_DIR, "metrics.jsonl"), row)
        with open(os.path.join(cfg.OUTPUT_DIR, "predictions.csv"), "w") as file:
            file.write(str(row["run"]))
        life.moment()
        return {}

    monkeypatch.setattr(job, "train", train)
    monkeypatch.setattr(job, "test", test)
    for module, name in ((os, "rename"), (job, "begin"), (job, "_write_config"), (job, "describe_start")):
        monkeypatch.setattr(module, name, life(getattr(module, name)))
    monkeypatch.setattr("slowfast_uniformer.runs.starts.commit", lambda: None)
    return life


def start(life, out, run: int, moments: int = -1, resume: bool = True, best: bool = False) -> bool:
    """Start run number `run` and kill it after some moments; returns whether it has come to its end."""
    overrides = {"RNG_SEED": run, "OUTPUT_DIR": str(out), "TRAIN.AUTO_RESUME": resume, "TEST.TEST_BEST": best}
    cfg = load_config(None, ["NUM_GPUS", 0, *itertools.chain(*overrides.items())])
    life.left = moments
    try:
        job.run_job(cfg)
        return True
    except Killed:
        return False
    finally:
        life.left = -1
        remove_logging()


def owners(out) -> dict[int, set[int]]:
    """The checkpoints below a folder by their run: their contents, each of which is written once."""
    found: dict[int, set[int]] = {}
    for path in out.rglob("*.pyth"):
        if not path.name.startswith("."):
            state = checkpoints.load_checkpoint(str(path))
            found.setdefault(state["run"], set()).add(int(state["model_state"]["w"]))
    return found


def assert_unmixed(out, run: int) -> None:
    """All in the folder itself is of this run."""
    rows = read_json_lines(str(out / "metrics.jsonl"))
    steps = [row["step"] for row in rows if row["split"] == "val_epoch"]
    assert {row["run"] for row in rows} == {run} and steps == [*range(1, EPOCHS + 1)]
    assert (out / "predictions.csv").read_text() == str(run)
    in_folder = owners(out / "checkpoints")
    assert set(in_folder) == {run} and len(in_folder[run]) == KEEP + 1
    assert f"RNG_SEED: {run}" in (out / "config.yaml").read_text()
    log = (out / "log.txt").read_text()
    assert f"RNG_SEED {run}," in log and f"RNG_SEED {run - 1}," not in log
    assert {path.name for path in out.iterdir() if not path.name.startswith("before_")} <= KNOWN


WALK = [("unfinished", False)]
SLOW_WALK = list(itertools.product(["empty", "barely begun", "unfinished", "finished"], [False, True]))


@pytest.mark.parametrize(
    "former, best", [*WALK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW_WALK if pair not in WALK)]
)
def test_a_run_that_is_begun_anew_and_killed_at_any_moment(life, tmp_path, former, best):
    """It begins anew a second time, or is continued; what runs before it have written is never touched."""
    for moments in itertools.count():
        ended = True
        for again in (False, True):
            out = tmp_path / f"{moments}_{again}"
            out.mkdir()
            if former != "empty":
                start(life, out, 1, {"barely begun": 4, "unfinished": 6, "finished": -1}[former])
            before = owners(out)
            ended &= start(life, out, 2, moments, resume=False, best=best)
            of_second = owners(out)
            assert of_second.get(1) == before.get(1)
            resume = again and (moments > 0 or former == "empty")  # killed before it began, there is nothing of it
            assert start(life, out, 2 if resume else 3, resume=resume, best=best)
            now = owners(out)
            assert now.get(1) == before.get(1), "a checkpoint of the first run is deleted"
            if resume:
                assert_unmixed(out, 2)
            else:
                assert now.get(2) == of_second.get(2), "a checkpoint of the second run is deleted"
                assert_unmixed(out, 3)
        if ended:
            break
    assert moments > 8


@pytest.mark.parametrize("former", [pytest.param(4, marks=pytest.mark.slow), 6, -1])
def test_a_run_that_is_continued_is_the_same_run(life, tmp_path, former):
    """Also after it was killed at any moment; nothing is set aside."""
    for moments in itertools.count():
        out = tmp_path / str(moments)
        start(life, out, 1, former)
        ended = start(life, out, 1, moments)
        assert start(life, out, 1)
        rows = [row for row in read_json_lines(str(out / "metrics.jsonl")) if row["split"] == "val_epoch"]
        assert [row["step"] for row in rows] == [*range(1, EPOCHS + 1)] and set(owners(out)) == {1}
        assert not list(out.glob("before_*"))
        if ended:
            break


@pytest.mark.slow
def test_a_restart_of_the_job_that_began_anew_continues(life, tmp_path, monkeypatch):
    """SLURM's requeueing, at any moment, with the command that begins anew."""
    for moments in itertools.count():
        out = tmp_path / str(moments)
        start(life, out, 1)
        before = owners(out)
        with monkeypatch.context() as job_17:
            job_17.setenv("SLURM_JOB_ID", "17")
            ended = start(life, out, 2, moments, resume=False)
            of_second = {w for name, ws in owners(out).items() if name == 2 for w in ws}
            job_17.setenv("SLURM_RESTART_COUNT", "1")
            assert start(life, out, 2, resume=False)
        now = owners(out)
        assert now[1] == before[1]
        rows = read_json_lines(str(out / "metrics.jsonl"))
        assert {row["run"] for row in rows} == {2}
        assert set(owners(out / "before_1")) == {1}
        if ended:
            assert now[2] == of_second, "nothing was left to train"
            break


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_it_began_anew(tiny, tmp_path):
    """Two ranks, one of which is killed. With its next start torchrun begins anew."""
    out = tmp_path / "run"
    options = [*tiny, *pairs(LONG_RUN), "SOLVER.MAX_EPOCH", 4]
    assert finish(start_process(options, out), out)[0] == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max_restarts", "1"]
    command += [str(ROOT / "tools/run_net.py"), "--cfg", str(ROOT / "tests/empty.yaml"), *map(str, options)]
    for number in (1, 2):
        with open(f"{out}.err", "w") as errors:
            process = subprocess.Popen(
                [*command, "TRAIN.AUTO_RESUME", "False", "RNG_SEED", str(number)], stderr=errors, start_new_session=True
            )
        until(lambda n=number: (out / f"before_{n}").exists() and steps_done(out) >= 2)
        os.kill(family(process.pid)[1], signal.SIGKILL)
        status, said = finish(process, out)
        assert status == 0 and "the job that began the run was restarted" in said, said
        assert "TRAIN.AUTO_RESUME: the latest in OUTPUT_DIR" in said
    assert sorted(path.name for path in out.glob("before_*")) == ["before_1", "before_2"]
    for folder, number in ((out, 2), (out / "before_2", 1)):
        state = checkpoints.load_checkpoint(checkpoints.latest(str(folder)))
        assert state["cfg"]["RNG_SEED"] == number and state["epoch"] == 4
