"""Figures and scores of classes, against scikit-learn's and torchmetrics' on random predictions."""

import warnings

import numpy as np
import pytest
import torch

from slowfast_uniformer.engine.scores import (
    Outcome,
    average_precisions,
    best_column,
    class_counts,
    class_scores,
    every_video_once,
    figures,
    group_numbers,
    mean_over_classes,
)

VIDEOS, CLASSES = 90, 7


def single(seed: int, decimals: int | None = None) -> Outcome:
    """Random predictions of one label a video. Class 2 has no video, class 4 is never predicted, some videos failed.
    With few `decimals` many probabilities are equal."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 3, 4, 5, 6], size=VIDEOS)
    probabilities = rng.random((VIDEOS, CLASSES)) + 0.8 * np.eye(CLASSES)[truth]
    probabilities[:, 4] *= 0.1
    probabilities = probabilities if decimals is None else probabilities.round(decimals)
    predicted = probabilities.argmax(1)
    predicted[:3], probabilities[:3] = -1, 0.0
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    top5 = (ranked == truth[:, None]).any(1) & (predicted >= 0)
    return Outcome(truth, predicted, CLASSES, top5, probabilities)


def several(seed: int, decimals: int | None = None) -> Outcome:
    """Random predictions of several labels a video. Class 2 has no video, and videos have no label."""
    rng = np.random.default_rng(seed)
    truth = rng.random((VIDEOS, CLASSES)) < 0.25
    truth[:, 2] = False
    probabilities = np.clip(0.6 * rng.random(truth.shape) + 0.4 * truth, 0, 1)
    probabilities = probabilities if decimals is None else probabilities.round(decimals)
    assert not truth.any(1).all()
    return Outcome(truth, probabilities >= 0.5, CLASSES, probabilities=probabilities)


def resampled(outcome: Outcome, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Weights (V, 3), and the numbers of the videos of each of the three resamples."""
    drawn = np.random.default_rng(seed).integers(VIDEOS, size=(3, VIDEOS))
    return np.stack([np.bincount(row, minlength=VIDEOS) for row in drawn], 1).astype(np.int16), list(drawn)


def taken(outcome: Outcome, videos: np.ndarray) -> Outcome:
    top5 = None if outcome.top5 is None else outcome.top5[videos]
    parts = outcome.truth[videos], outcome.predicted[videos], CLASSES, top5, outcome.probabilities[videos]
    return Outcome(*parts)


@pytest.mark.parametrize("decimals", [None, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("make", [single, several])
def test_scores_are_those_of_scikit_learn(make, decimals):
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        one = make(seed, decimals)
        present = np.flatnonzero(one.multi_hot.any(0))
        assert 2 not in present
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on classes that are never predicted
            labels = {"labels": range(CLASSES)} if make is single else {}
            precision, recall, f1, support = metrics.precision_recall_fscore_support(
                one.truth, one.predicted, zero_division=np.nan, **labels
            )
            of_present = {"labels": present, "average": "macro", "zero_division": 0}
            macro_f1 = metrics.f1_score(one.truth, one.predicted, **of_present)
            mean_accuracy = metrics.recall_score(one.truth, one.predicted, **of_present)
        f1[present] = np.nan_to_num(f1[present])  # a class that is never predicted has an F1 of 0
        ours = class_scores(one)
        assert ours["videos"].tolist() == support.tolist()
        np.testing.assert_allclose(ours["precision"], 100 * precision)
        np.testing.assert_allclose(ours["recall"][present], 100 * recall[present])
        np.testing.assert_allclose(ours["f1"][present], 100 * f1[present])
        assert np.isnan([ours[name][2] for name in ("recall", "f1", "average_precision")]).all()
        expected = [metrics.average_precision_score(one.multi_hot[:, k], one.probabilities[:, k]) for k in present]
        np.testing.assert_allclose(ours["average_precision"][present], 100 * np.array(expected))
        found = {name: value.item() for name, value in figures(one, every_video_once(one)).items()}
        assert found["macro_f1"] == pytest.approx(100 * macro_f1)
        if make is single:
            assert found["top1_acc"] == pytest.approx(100 * metrics.accuracy_score(one.truth, one.predicted))
            assert found["mean_class_acc"] == pytest.approx(100 * mean_accuracy)
            # without the videos that failed; they are wrong
            top5 = metrics.top_k_accuracy_score(one.truth[3:], one.probabilities[3:], k=5, labels=range(CLASSES))
            if decimals is None:  # of equal probabilities either may be among five
                assert found["top5_acc"] == pytest.approx(100 * top5 * (VIDEOS - 3) / VIDEOS)


@pytest.mark.parametrize("decimals", [None, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("make", [single, several])
def test_average_precision_is_that_of_torchmetrics(make, decimals):
    from torchmetrics.functional.classification import binary_average_precision

    one = make(0, decimals)
    ours = average_precisions(one, every_video_once(one))[:, 0]
    for k in set(range(CLASSES)) - {2}:
        scores, hits = torch.tensor(one.probabilities[:, k]), torch.tensor(one.multi_hot[:, k]).int()
        assert ours[k] == pytest.approx(100 * binary_average_precision(scores, hits).item(), abs=1e-4)


@pytest.mark.parametrize("make", [single, several])
def test_weights_are_copies_of_videos(make):
    one = make(3, 1)
    weights, drawn = resampled(one, 4)
    several_at_once = figures(one, weights) | {"map": mean_over_classes(average_precisions(one, weights))}
    for number, videos in enumerate(drawn):
        copied = taken(one, videos)
        once = every_video_once(copied)
        alone = figures(copied, once) | {"map": mean_over_classes(average_precisions(copied, once))}
        assert {name: values[number] for name, values in several_at_once.items()} == pytest.approx(
            {name: values.item() for name, values in alone.items()}
        )


def test_by_hand():
    one = Outcome(np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 1, -1, 2]), 4)
    counts = class_counts(one, every_video_once(one))
    assert counts.support[:, 0].tolist() == [3, 2, 0, 1]
    assert counts.predicted[:, 0].tolist() == [2, 2, 1, 0] and counts.correct[:, 0].tolist() == [2, 1, 0, 0]
    found = {name: value.item() for name, value in figures(one, every_video_once(one)).items()}
    assert found == pytest.approx(
        {"top1_acc": 50.0, "mean_class_acc": 100 * (2 / 3 + 1 / 2 + 0) / 3, "macro_f1": 100 * (4 / 5 + 2 / 4 + 0) / 3}
    )
    probabilities = np.array([[0.9, 0.2, 0.5], [0.4, 0.3, 0.1], [0.6, 0.8, 0.3]])
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    # class 0: right at ranks 1 and 3, (1 + 2/3) / 2; class 1: right at rank 2; class 2 has no video
    found = average_precisions(Outcome(truth, truth, 3, probabilities=probabilities), np.ones((3, 1), np.int16))
    assert found[:2, 0] == pytest.approx([100 * 5 / 6, 50.0]) and np.isnan(found[2, 0])


def test_the_best_column_follows_the_labels():
    assert best_column("auto", False) == "top1_acc" and best_column("auto", True) == "map"
    assert best_column("macro_f1", True) == "macro_f1" and best_column("loss", False) == "loss"


def test_groups_have_numbers_and_videos_without_one_stand_alone():
    assert group_numbers(["", "", ""]) is None
    assert group_numbers(["b", "", "a", "b", ""]).tolist() == [0, 1, 2, 0, 3]
