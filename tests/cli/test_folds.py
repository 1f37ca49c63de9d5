"""`uniformer train --folds`: from a folder of class folders to the scores of all folds."""

import csv
import json
import os
import signal
import statistics

import pytest
from conftest import ROOT
from processes import kill, start, stderr_of, until

from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine import test as engine_test
from slowfast_uniformer.errors import UserError


@pytest.fixture
def train(tiny, demo, tmp_path, command):
    """Write the lists of two folds of the demo data, and call the training of both."""
    assert command("lists", demo / "videos", "--folds", 2, "--val", 0, "--out", tmp_path / "lists")[0] == 0
    keys = [*tiny, "DATA.PATH_TO_DATA_DIR", tmp_path / "lists", "SOLVER.MAX_EPOCH", 1, "TRAIN.EVAL_PERIOD", 0]
    return lambda *more: command("train", "--cfg", ROOT / "tests/empty.yaml", "--folds", *keys, *more)


@pytest.mark.slow
def test_folds_are_trained_one_after_the_other_and_pooled(train, tmp_path, demo, monkeypatch):
    out, evaluate, calls = tmp_path / "run", engine_test.evaluate, []

    def stops_in_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise UserError("stopped")
        return evaluate(*arguments)

    monkeypatch.setattr(engine_test, "evaluate", stops_in_the_second)
    status, _, errors = train()
    assert status == 2 and "stopped" in errors and (out / "fold_1/predictions.csv").exists()
    status, printed, errors = train()
    assert status == 0 and "fold_1 is finished" in printed + errors and len(calls) == 3, errors
    summary = json.loads((out / "folds.json").read_text())
    rows = [json.loads((out / f"fold_{k}/metrics.jsonl").read_text().splitlines()[-1]) for k in (1, 2)]
    top1 = [row["top1_acc"] for row in rows]
    score = summary["scores"]["top1_acc"]
    assert score == {"values": top1, "mean": statistics.fmean(top1), "std": statistics.stdev(top1)}
    with open(out / "predictions.csv", newline="") as file:
        pooled = list(csv.DictReader(file))
    assert sorted(row["video"] for row in pooled) == sorted(str(path) for path in (demo / "videos").rglob("*.mp4"))
    assert {row["fold"] for row in pooled} == {"fold_1", "fold_2"}
    right = 100 * statistics.fmean(row["correct"] == "1" for row in pooled)
    assert summary["pooled"]["top1_acc"] == pytest.approx(right)
    table, together = (printed + errors).split("All predictions together:\n")
    shown = next(line for line in table.splitlines() if line.startswith("top-1 ") and "±" in line)
    assert shown.endswith(f"{score['mean']:.2f} ± {score['std']:.2f}") and "_low" not in table
    interval = "[{top1_acc_low:.2f}, {top1_acc_high:.2f}]".format(**summary["pooled"])
    assert together.splitlines()[0].split() == f"top-1 {right:.2f} % {interval}".split()
    assert f"{len(pooled)} videos, 100.00 % predicted; in brackets: 95 % intervals" in together
    assert train()[0] == 0 and len(calls) == 3, "nothing is left to do"
    assert train("TEST.NUM_SPATIAL_CROPS", 1)[0] == 0 and len(calls) == 5, "another test"


def test_what_folds_need(train, tmp_path, command, tiny):
    status, _, errors = train("TEST.ENABLE", False)
    assert status == 2 and "--folds trains and tests" in errors
    (tmp_path / "lists/fold_2/test.csv").write_text("up/up_0001.mp4 99\n")
    status, _, errors = train()
    assert status == 2 and "fold_2/test.csv, line 1: label 99" in errors and not (tmp_path / "run/fold_1").exists()
    status, _, errors = command("train", "--cfg", ROOT / "tests/empty.yaml", "--folds", *tiny)
    assert status == 2 and "has no folds (fold_1, fold_2 ...); `uniformer lists FOLDER --out " in errors


@pytest.mark.slow
def test_two_tasks_of_srun_train_on_folds_and_stop_between_them(tiny, demo, tmp_path, command, monkeypatch):
    """Both meet at one port for each fold. A signal that comes after a fold stops the next one, and the job goes on."""
    assert command("lists", demo / "videos", "--folds", 2, "--val", 0, "--out", tmp_path / "lists")[0] == 0
    keys = [*tiny, "DATA.PATH_TO_DATA_DIR", tmp_path / "lists", "TRAIN.EVAL_PERIOD", 0]
    out, codes = tmp_path / "run", []
    job = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    job |= {"SLURM_STEP_NODELIST": "no-such-host.invalid", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    for attempt in (0, 1):
        tasks = []
        try:
            for n in "01":
                of_task = {"SLURM_JOB_ID": str(os.getpid() + attempt), "SLURM_PROCID": n, "SLURM_LOCALID": n}
                for name, value in (job | of_task).items():
                    monkeypatch.setenv(name, value)
                tasks.append(start(keys, out, arguments=["--folds"]))
            if attempt == 0:
                until((out / "folds.json").exists)
                for task in tasks:
                    task.send_signal(signal.SIGUSR1)
            codes.append([task.wait(timeout=100) for task in tasks])
        finally:
            for task in tasks:
                kill(task)
        assert codes[-1] == [0 if attempt else signals.EXIT_CODE] * 2, stderr_of(out)
        assert (out / "fold_2/predictions.csv").exists() == bool(attempt)
    assert len(json.loads((out / "folds.json").read_text())["folds"]) == 2
    assert (out / "fold_1/log.txt").read_text().count("] testing ") == 1
