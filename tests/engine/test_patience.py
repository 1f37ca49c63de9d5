"""TRAIN.BEST_METRIC and TRAIN.PATIENCE: which validation is the best, and when a run ends early."""

import logging

import pytest
import torch
from processes import assert_same_end, record

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine import train as training
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.predictor import load_model
from slowfast_uniformer.runs import checkpoints

# Nothing is learnt, so that no validation is better than the first one
STUCK = ["SOLVER.BASE_LR", 1e-12, "SOLVER.MAX_EPOCH", 6, "TRAIN.CHECKPOINT_PERIOD", 100]


def validations(folder) -> list[dict]:
    return [row for row in record(folder) if row["split"] == "val_epoch"]


def names(folder) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_a_run_that_gets_no_better_ends_early(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out, options = tmp_path / "run", [*tiny, *STUCK]
    training.train(load_config(None, [*options, "TRAIN.PATIENCE", 2]))
    assert [row["stale_validations"] for row in validations(out)] == [0, 1, 2]
    assert names(out) == {"best.pyth", "epoch_00003.pyth"}, "the last epoch's is written, although its period is 100"
    assert checkpoints.load_checkpoint(str(out / "checkpoints/best.pyth"))["epoch"] == 1
    why = "TRAIN.PATIENCE 2: training ends after epoch 3 of 6, as 2 validations in a row had no better top1_acc than"
    assert caplog.text.count(why) == 1

    training.train(load_config(None, [*options, "TRAIN.PATIENCE", 2]))
    assert len(validations(out)) == 3 and "complete: 3 epochs done of 6, and TRAIN.PATIENCE ends it" in caplog.text
    training.train(load_config(None, [*options, "TRAIN.PATIENCE", 3]))
    assert [row["stale_validations"] for row in validations(out)] == [0, 1, 2, 3], "with more patience it goes on"


def test_an_interrupted_run_keeps_its_count(tiny, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def run(name: str) -> None:
        options = ["MODEL.EMA_EPOCH", 1, "TRAIN.CHECKPOINT_STEPS", 1, "TRAIN.PATIENCE", 2]
        training.train(load_config(None, [*tiny, *STUCK, *options, "OUTPUT_DIR", str(tmp_path / name)]))

    run("whole")
    count = iter(range(1, 100))
    training_step = training.training_step

    def step(*arguments):
        if next(count) == 6:  # in the third epoch, with one validation that was no better
            raise Killed
        return training_step(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(training, "training_step", step)
        run("broken")
    latest = checkpoints.load_checkpoint(checkpoints.latest(str(tmp_path / "broken")))
    assert (latest["epoch"], latest["stale_validations"], latest["temperature"]) == (2, 1, None)
    run("broken")
    assert_same_end(tmp_path / "whole", tmp_path / "broken")
    assert len(validations(tmp_path / "broken")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("metric, column, better", [("loss", "loss", min), ("map", "map", max)])
def test_the_best_checkpoint_is_the_best_by_the_metric(tiny, tmp_path, metric, column, better):
    options = ["TRAIN.BEST_METRIC", metric, "SOLVER.BASE_LR", 0.03, "SOLVER.MAX_EPOCH", 3]
    training.train(load_config(None, [*tiny, *options]))
    rows = validations(tmp_path / "run")
    best = better(rows, key=lambda row: row[column])
    kept = checkpoints.load_checkpoint(str(tmp_path / "run/checkpoints/best.pyth"))
    assert kept["epoch"] == best["epoch"] and abs(kept["best_top1"]) == pytest.approx(best[column])
    assert all(row.keys() >= {"top1_acc", "macro_f1", "mean_class_acc", "loss"} for row in rows)


@pytest.mark.slow
def test_another_metric_begins_anew(tiny, tmp_path, caplog):
    def run(*options) -> None:
        training.train(load_config(None, [*tiny, "SOLVER.BASE_LR", 1e-12, "TRAIN.PATIENCE", 9, *options]))

    run("SOLVER.MAX_EPOCH", 2)
    assert validations(tmp_path / "run")[-1]["stale_validations"] == 1
    run("SOLVER.MAX_EPOCH", 3, "TRAIN.BEST_METRIC", "loss")
    assert validations(tmp_path / "run")[-1]["stale_validations"] == 0
    assert "has the best top1_acc so far, and not the best loss" in caplog.text
    assert checkpoints.load_checkpoint(str(tmp_path / "run/checkpoints/best.pyth"))["epoch"] == 3


def test_checkpoints_of_earlier_versions_continue(tiny, tmp_path):
    cfg = load_config(None, [*tiny, "SOLVER.MAX_EPOCH", 1])
    training.train(cfg)
    path = checkpoints.latest(str(tmp_path / "run"))
    state = checkpoints.load_checkpoint(path)
    for key in ("stale_validations", "temperature"):
        del state[key]
    for key in ("BEST_METRIC", "PATIENCE"):
        del state["cfg"]["TRAIN"][key]
    best = state["best_top1"]
    checkpoints.write_checkpoint(path, state)
    training.train(load_config(None, [*tiny, "SOLVER.MAX_EPOCH", 2, "TRAIN.PATIENCE", 5]))
    state = checkpoints.load_checkpoint(checkpoints.latest(str(tmp_path / "run")))
    assert state["epoch"] == 2 and state["best_top1"] >= best


def test_predictions_at_the_temperature_of_the_validation(tiny, tmp_path):
    training.train(load_config(None, [*tiny, "SOLVER.BASE_LR", 0.03]))
    path = checkpoints.latest(str(tmp_path / "run"))
    fitted = validations(tmp_path / "run")[-1]["temperature"]
    plain, auto = load_model(path), load_model(path, overrides=["TEST.TEMPERATURE", "auto"])
    assert plain.temperature == 1 and auto.temperature == pytest.approx(fitted) != 1
    logits = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    one, other = plain.probabilities(logits), auto.probabilities(logits)
    assert torch.allclose(one, logits.double().softmax(1).mean(0))
    assert torch.allclose(other, (one.log() / fitted).softmax(0)) and not torch.allclose(one, other)


def test_values_that_cannot_work_are_refused():
    for options, said in {
        ("TRAIN.BEST_METRIC", "f1"): "TRAIN.BEST_METRIC: 'f1' is not one of 'auto', 'top1'",
        ("TRAIN.BEST_METRIC", "top1", "DATA.MULTI_LABEL", True): "top1 needs one label per video",
        ("TRAIN.PATIENCE", 2, "TRAIN.EVAL_PERIOD", 0): "TRAIN.PATIENCE: counts validations",
    }.items():
        with pytest.raises(UserError, match=said):
            load_config(None, ["NUM_GPUS", 0, *options])
