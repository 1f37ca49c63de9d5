"""Scores of folds together."""

import json

import numpy as np
import pytest
import torch

from slowfast_uniformer.data.sample_list import Sample
from slowfast_uniformer.engine import fold_scores
from slowfast_uniformer.engine.intervals import intervals
from slowfast_uniformer.engine.scores import Outcome
from slowfast_uniformer.runs.predictions import Prediction, write_predictions

NAMES = ["a", "b", "c", "d", "e", "f"]


def prediction(video, label, predicted, start=None):
    return Prediction(video, (label,), "", predicted, "", 0.5, [], (), start, None if start is None else start + 1)


def pooled(predictions):
    return fold_scores.pooled_scores(predictions, [], False, 1)


def test_pooled_scores_are_of_all_videos():
    found = [prediction("a", 0, 0), prediction("b", 0, 1), prediction("c", 0, 0), prediction("d", 1, None)]
    scores = pooled(found)
    assert scores["top1_acc"] == 50 and scores["mean_class_acc"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert scores["macro_f1"] == pytest.approx(100 * (4 / 5 + 0) / 2) and "top5_acc" not in scores
    assert (
        scores["num_videos"] == 4
        and "num_labelled" not in scores
        and scores["remark"].startswith("only 4 test videos:")
    )
    assert pooled([*found, prediction("a", 0, 0)]) == {}, "a test list that all folds share"
    segments = [prediction("a", 0, 0, 1.0), prediction("a", 1, 1, 2.0)]
    assert pooled(segments)["top1_acc"] == 100
    unlabelled = Prediction("e", (), "", 0, "", 0.5, [], ())
    more = pooled([*found, unlabelled])
    assert (more["top1_acc"], more["num_videos"], more["num_labelled"]) == (50, 5, 4)
    assert pooled([unlabelled]) == {}


@pytest.fixture
def folds_of(tmp_path):
    """A function that writes predictions.csv of two folds of 30 videos, the first of them failed; returns `finished`
    and the probabilities (60, 6)."""

    def write(labels, multi_label, group):
        rng, finished, every = np.random.default_rng(0), {}, []
        for fold in (0, 1):
            folder = tmp_path / f"fold_{fold + 1}"
            folder.mkdir()
            own = range(30 * fold, 30 * fold + 30)
            samples = [Sample(f"{n}.mp4", labels[n], group=group(n)) for n in own]
            probabilities = torch.tensor(rng.dirichlet(np.full(6, 0.5), 30).round(6))
            every.append(probabilities.numpy())
            known = torch.arange(30 * fold, 30 * fold + 30) > 0
            write_predictions(str(folder / "predictions.csv"), samples, probabilities, known, NAMES, multi_label)
            row = {"step": 5, "split": "test_final", "num_videos": 30, "coverage": 100.0 - 10 * fold}
            row |= {
                "macro_f1": 40.0 + fold,
                "macro_f1_low": 30.0,
                "macro_f1_high": 50.0,
                "temperature": 1.5,
                "num_groups": 8,
            }
            row |= {} if multi_label else {"top5_acc": 90.0}
            finished[folder.name] = {"output_dir": str(folder), "scores": row}
        return finished, np.concatenate(every)

    return write


def test_pooled_scores_have_the_intervals_of_a_test_over_groups(folds_of, tmp_path):
    labels = np.arange(60) % 6
    finished, probabilities = folds_of([int(label) for label in labels], False, lambda n: f"person {n // 4}")
    summary = fold_scores.summarize(str(tmp_path), finished, 3)
    predicted = probabilities.argmax(1)
    top5 = (np.argsort(-probabilities)[:, :5] == labels[:, None]).any(1)
    predicted[0], top5[0] = -1, False
    found = summary["pooled"]
    for name, (low, high) in intervals(Outcome(labels, predicted, 6, top5=top5, groups=np.arange(60) // 4), 3).items():
        assert (found[f"{name}_low"], found[f"{name}_high"]) == (low, high) and low <= found[name] <= high
    assert found["top1_acc"] == pytest.approx(100 * (predicted == labels).mean())
    assert found["top5_acc"] == pytest.approx(100 * top5.mean())
    assert (found["num_videos"], found["num_groups"], found["coverage"]) == (60, 15, 95)
    assert json.loads((tmp_path / "folds.json").read_text()) == summary and "temperature" in summary["scores"]
    head, *lines = fold_scores.pooled_lines(summary)
    assert head == "All predictions together:"
    first = "top-1 {top1_acc:.2f} % [{top1_acc_low:.2f}, {top1_acc_high:.2f}]".format(**found)
    assert lines[0].split() == first.split()
    assert [line[:14].strip() for line in lines[:4]] == ["top-1", "top-5", "mean per-class", "macro-F1"]
    assert lines[4] == "60 videos, 95.00 % predicted; in brackets: 95 % intervals, by a bootstrap over 15 groups"
    assert lines[5].startswith("only 15 groups of videos:")
    assert fold_scores.summary_rows(summary) == [
        ["", "fold_1", "fold_2", "mean ± std"],
        ["top-5", "90.00", "90.00", "90.00 ± 0.00"],
        ["macro-F1", "40.00", "41.00", "40.50 ± 0.71"],
        ["coverage", "100.00", "90.00", "95.00 ± 7.07"],
    ]


def test_pooled_scores_of_several_labels_a_video(folds_of, tmp_path):
    finished, probabilities = folds_of([(n % 6, (n + 1) % 6) for n in range(60)], True, lambda n: "")
    summary = fold_scores.summarize(str(tmp_path), finished, 1)
    truth = np.array([[label in (n % 6, (n + 1) % 6) for label in range(6)] for n in range(60)])
    probabilities[0] = 0
    expected = intervals(Outcome(truth, probabilities >= 0.5, 6, probabilities=probabilities), 1)
    assert expected.keys() == {"macro_f1", "map"}
    for name, bounds in expected.items():
        assert [summary["pooled"][f"{name}{end}"] for end in ("_low", "_high")] == pytest.approx(bounds)
    lines = fold_scores.pooled_lines(summary)
    assert [line.split()[0] for line in lines[1:3]] == ["macro-F1", "mAP"] and "over the videos" in lines[3]


def test_folds_that_share_a_video_have_no_scores_together():
    assert "a video is in the test lists of two folds" in fold_scores.pooled_lines({"pooled": {}})[0]
