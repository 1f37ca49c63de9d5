"""Scores of folds together."""

import math

import pytest

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import folds
from slowfast_uniformer.runs.predictions import Prediction


def prediction(video, label, predicted, start=None):
    return Prediction(video, (label,), "", predicted, "", 0.5, [], (), start, None if start is None else start + 1)


def test_pooled_scores_are_of_all_videos():
    found = [prediction("a", 0, 0), prediction("b", 0, 1), prediction("c", 0, 0), prediction("d", 1, None)]
    scores = folds.pooled_scores(found)
    assert scores["top1_acc"] == 50 and math.isclose(scores["mean_class_acc"], 100 * (2 / 3 + 0) / 2)
    assert folds.pooled_scores([*found, prediction("a", 0, 0)]) == {}, "a test list that all folds share"
    segments = [prediction("a", 0, 0, 1.0), prediction("a", 1, 1, 2.0)]
    assert folds.pooled_scores(segments) == {"top1_acc": 100, "mean_class_acc": 100}


def test_tables_of_folds(tmp_path):
    summary = {
        "folds": {"fold_1": {}, "fold_2": {}},
        "scores": {"top1_acc": {"values": [50.0, 60.0], "mean": 55.0, "std": 7.071}},
        "pooled": {"top1_acc": 54.5},
    }
    assert folds.summary_rows(summary) == [
        ["", "fold_1", "fold_2", "mean ± std", "pooled"],
        ["top1_acc", "50.00", "60.00", "55.00 ± 7.07", "54.50"],
    ]
    assert folds.summary_rows(summary | {"pooled": {}})[1] == ["top1_acc", "50.00", "60.00", "55.00 ± 7.07"]


def test_folders_and_files_of_folds(tmp_path):
    for number in (1, 2, 4):
        (tmp_path / f"fold_{number}").mkdir()
    assert folds.fold_folders(str(tmp_path)) == [str(tmp_path / "fold_1"), str(tmp_path / "fold_2")]
    assert folds.read_finished(str(tmp_path)) == {}
    (tmp_path / "folds.json").write_text("{")
    with pytest.raises(UserError, match=r"folds.json: damaged .*; remove it"):
        folds.read_finished(str(tmp_path))
    with pytest.raises(UserError, match="metrics could not be written"):
        folds.test_scores(str(tmp_path / "fold_1"))
