"""Trackers: what the real packages write offline, and that their failures do not touch the run."""

import json
import logging
import os
import signal
import time

import pytest
from conftest import ROOT

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import trackers
from slowfast_uniformer.runs.recorder import Recorder

TRAIN = {"split": "train_iter", "epoch": 1, "iter": 1, "iters": 2, "loss": 2.5}
TRAIN |= {"grad_norm": float("nan"), "clips_per_second": 9.0}
FAKE = """
import json, os, time
NOTES = os.environ["NOTES"]
def note(*what):
    with open(NOTES, "a") as file:
        file.write(json.dumps(what) + "\\n")
class Settings:
    def __init__(self, **settings): pass
class Run:
    def __init__(self, id): self.id = id or "made"
    def define_metric(self, *names, **options): pass
    def log(self, figures): note("log", figures)
    def finish(self):
        note("finish")
        if os.environ.get("FAULT") == "hang": time.sleep(600)
def init(**given):
    note("init", given["id"], given["name"], len(given["config"]))
    if os.environ.get("FAULT") == "fail": raise ConnectionError("no way\\n to the server")
    return Run(given["id"])
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A wandb that records its calls; returns a function that gives them."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "fake"), str(ROOT)]))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return lambda: list(map(json.loads, (tmp_path / "notes").read_text().splitlines()))


def log_of(folder, kind, rank=0):
    return Recorder(str(folder), tensorboard=False, rank=rank, tracker=kind)


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_resumed_run_continues_the_run_of_the_tracker(fake, tmp_path, caplog):
    run = tmp_path / "my run"
    log = log_of(run, "wandb")
    log.config(load_config(None, ["NUM_GPUS", 0]))
    log.write(5, TRAIN)
    log.close()
    log = log_of(run, "wandb")
    log.write(7, {"split": "test_final", "top1_acc": 60.0, "checkpoint": "a.pyth"})
    log.close()
    begun, *notes = fake()
    assert begun[:3] == ["init", None, "my run"] and begun[3] > 100
    assert notes == [
        ["log", {"train/loss": 2.5, "watch/clips_per_second": 9.0, "step": 5}],
        ["finish"],
        ["init", "made", "my run", 0],
        ["log", {"test/top1_acc": 60.0, "step": 7}],
        ["finish"],
    ]
    assert json.loads((run / "tracker.json").read_text()) == {"wandb": "made"} and not warnings(caplog)


def test_a_tracker_that_fails_is_one_warning(fake, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("FAULT", "fail")
    log = log_of(tmp_path / "run", "wandb")
    log.write(1, TRAIN)
    process = log._tracker._process
    until(lambda: process.poll() is not None)
    for step in (2, 3):
        log.write(step, TRAIN)
    log.close()
    (said,) = warnings(caplog)
    assert said.startswith("TRACKER: no more metrics are sent to wandb (ConnectionError: no way to the server; its")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    test = log_of(tmp_path / "run", "wandb")
    test.write(4, {"split": "test_final", "top1_acc": 60.0})
    test.close()
    assert len(warnings(caplog)) == 1 and len(fake()) == 1, "the test after it does not wait and warn again"
    test.resume(3, 1)  # a training that is continued
    test.write(5, TRAIN)
    assert test._tracker._process
    test.close()


def test_a_tracker_that_hangs_does_not_delay_the_run(fake, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("FAULT", "hang")
    monkeypatch.setattr(trackers, "SHUTDOWN_TIMEOUT", 0.2)
    log = log_of(tmp_path / "run", "wandb")
    log.write(1, TRAIN)
    until(lambda: (tmp_path / "notes").exists())
    process = log._tracker._process
    log.close()
    assert process.poll() == -signal.SIGKILL
    assert len(warnings(caplog)) == 1 and "within 0.2 s" in warnings(caplog)[0]


def test_a_tracker_outlives_signals_to_the_run(fake, tmp_path, caplog):
    log = log_of(tmp_path / "run", "wandb")
    log.write(1, TRAIN)
    until(lambda: (tmp_path / "notes").exists())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.killpg(log._tracker._process.pid, number)
    log.write(2, TRAIN)
    log.close()
    assert [note[0] for note in fake()] == ["init", "log", "log", "finish"] and not warnings(caplog)


def test_other_ranks_and_runs_without_a_tracker_start_nothing(fake, tmp_path):
    for log in (log_of(tmp_path / "run", "wandb", rank=1), log_of(tmp_path / "run", "")):
        log.write(1, TRAIN)
        log.close()
    assert not (tmp_path / "notes").exists() and not (tmp_path / "run" / "tracker.log").exists()


def test_a_tracker_that_is_not_installed_or_not_known(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"TRACKER: mlflow is not installed: pip install 'slowfast_uniformer\[mlf"):
        load_config(None, ["NUM_GPUS", 0, "TRACKER", "mlflow"])
    assert load_config(None, ["TRACKER", "mlflow"], runs_here=False).TRACKER == "mlflow"
    with pytest.raises(UserError, match="TRACKER: 'comet' is not one of '', 'wandb', 'mlflow'"):
        load_config(None, ["NUM_GPUS", 0, "TRACKER", "comet"])


def test_wandb_itself_offline(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(trackers, "SHUTDOWN_TIMEOUT", 120)
    log = log_of(tmp_path / "run", "wandb")
    log.config(load_config(None, ["NUM_GPUS", 0]))
    log.write(5, TRAIN)
    log.close()
    assert not warnings(caplog), (tmp_path / "run" / "tracker.log").read_text()
    name = json.loads((tmp_path / "run" / "tracker.json").read_text())["wandb"]
    (file,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb")
    content = file.read_bytes()
    assert b"train/loss" in content and b"SOLVER.BASE_LR" in content and b"grad_norm" not in content


@pytest.mark.slow
def test_mlflow_itself_in_files(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(trackers, "SHUTDOWN_TIMEOUT", 120)
    for step in (5, 6):
        log = log_of(tmp_path / "run", "mlflow")
        log.config(load_config(None, ["NUM_GPUS", 0]))
        log.write(step, TRAIN)
        log.close()
    assert not warnings(caplog), (tmp_path / "run" / "tracker.log").read_text()
    name = json.loads((tmp_path / "run" / "tracker.json").read_text())["mlflow"]
    (run,) = (tmp_path / "mlflow").glob(f"*/{name}")
    lines = (run / "metrics" / "train" / "loss").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == [["2.5", "5"], ["2.5", "6"]]
    assert (run / "params" / "SOLVER.BASE_LR").read_text() == "0.1"
