"""Which checkpoint a test takes, and what it says."""

import json
import os

import numpy as np
import pytest
from conftest import tiny_overrides

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.scores import Outcome
from slowfast_uniformer.engine.test import checkpoint_to_test, note_absent_classes
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.predictions import read_class_scores


def test_the_order_of_the_checkpoints_to_test(demo, trained, tmp_path):
    def found(*overrides, out=trained):
        return checkpoint_to_test(load_config(None, [*tiny_overrides(demo, out), *overrides]))

    latest = checkpoints.checkpoint_path(str(trained), 2)
    assert found() == found("MODEL.INIT_FROM", "initial.pyth") == found("TEST.TEST_BEST", True) == latest
    assert found("TEST.CHECKPOINT_FILE_PATH", "given.pyth") == "given.pyth"
    assert found("TEST.CHECKPOINT_FILE_PATH", str(trained)) == latest, "a run's folder"
    out = tmp_path / "run"
    assert found("MODEL.INIT_FROM", "initial.pyth", out=out) == "initial.pyth"
    with pytest.raises(UserError, match="nothing to test: .*TEST.CHECKPOINT_FILE_PATH"):
        found(out=out)
    with pytest.raises(UserError, match="nothing to test: .*uniformer weights list"):
        found("MODEL.INIT_FROM", "uniformer_small_in1k", out=out)  # an image model
    assert found("MODEL.INIT_FROM", "k400/uniformer_s", out=out) == "k400/uniformer_s"
    best = checkpoints.best_path(str(out))
    os.makedirs(os.path.dirname(best))
    os.link(latest, best)
    assert found("TEST.TEST_BEST", True, out=out) == best
    assert found("TEST.CHECKPOINT_FILE_PATH", str(out)) == best
    with pytest.raises(UserError, match="this folder has no checkpoints"):
        found("TEST.CHECKPOINT_FILE_PATH", str(tmp_path))


def test_scores_with_intervals_reach_the_row_the_summary_and_the_files(tiny, tmp_path, run_net, caplog, monkeypatch):
    monkeypatch.setattr("slowfast_uniformer.engine.chance.chance_note", lambda *_: "top-1 is at chance")
    monkeypatch.setattr("slowfast_uniformer.engine.chance.MIN_STEPS", 2)
    status, out, errors = run_net([*tiny, "SOLVER.MAX_EPOCH", 1, "TEST.TEMPERATURE", "auto"])
    assert status == 0, errors
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (validation,) = [row for row in rows if row["split"] == "val_epoch"]
    row = rows[-1]
    for name in ("top1_acc", "top5_acc", "mean_class_acc", "macro_f1", "map"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert row["temperature"] == validation["temperature"] and 0 <= row["ece"] <= 100
    first, second = out.splitlines()[:2]
    assert first.split() == "top-1 {top1_acc:.2f} % [{top1_acc_low:.2f}, {top1_acc_high:.2f}]".format(**row).split()
    assert second.startswith("top-5 ") and "in brackets: 95 % intervals, by a bootstrap over the videos" in out
    assert out.splitlines()[-4:-2] == [
        f"In {tmp_path}/run: predictions.csv, class_scores.csv, metrics.jsonl, log.txt, checkpoints",
        "Next:",
    ]
    assert out.endswith(f"  uniformer predict --checkpoint {tmp_path}/run VIDEO\n")
    assert "only 9 test videos: the 95 % intervals are rough" in caplog.text
    assert row["doubt"] == "top-1 is at chance" and "doubt" not in validation
    assert [f"{split}: top-1 is at chance" in caplog.messages for split in ("validation", "test")] == [True, True]
    scores = read_class_scores(str(tmp_path / "run/class_scores.csv"))
    assert sum(one["videos"] for one in scores) == 9 and len(scores) == 8
    f1 = [one["f1"] for one in scores if one["videos"]]
    assert row["macro_f1"] == pytest.approx(sum(f1) / len(f1), abs=0.01)


def test_classes_without_test_videos_are_named(caplog):
    truth = np.array([0, 0, 3])
    note_absent_classes(Outcome(truth, truth, 8), [f"class {k}" for k in range(8)])
    assert "no test video of 6 classes: class 1, class 2, class 4 and 3 more; means over classes leave" in caplog.text
    caplog.clear()
    note_absent_classes(Outcome(np.arange(8), np.arange(8), 8), None)
    assert not caplog.text
