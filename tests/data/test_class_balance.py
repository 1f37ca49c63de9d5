"""How often unbalanced classes are drawn, and what they weigh."""

import numpy as np
import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.class_balance import POWERS, Draws, class_counts, class_weights, draws, occurrences
from slowfast_uniformer.data.sample_list import Sample, SampleList

COUNTS = [50, 5, 0, 20, 2]  # class 2 has no videos


def list_of(*labels) -> SampleList:
    return SampleList.of(Sample(f"{k}.mp4", label) for k, label in enumerate(labels))


@pytest.fixture(scope="module")
def samples() -> SampleList:
    return list_of(*np.random.default_rng(0).permutation(np.repeat(range(5), COUNTS)).tolist())


@pytest.fixture(scope="module")
def labels(samples) -> np.ndarray:
    return np.array([sample.label for sample in samples])


@pytest.mark.parametrize(("sampler", "weights"), [("balanced", [1, 1, 0, 1, 1]), ("sqrt", np.sqrt(COUNTS))])
def test_classes_are_drawn_in_proportion_in_each_epoch(samples, labels, sampler, weights):
    """Each class as often as it should, and each of its videos as often as the others, rounded up or down."""
    drawn = Draws(samples, POWERS[sampler])
    expected = len(samples) * np.array(weights) / np.sum(weights)
    of_video = (expected / np.maximum(COUNTS, 1))[labels]
    np.testing.assert_allclose(drawn.factors, of_video)
    total = np.zeros(len(samples))
    for epoch in range(400):
        order = drawn.order(np.random.default_rng([1, epoch]))
        assert len(order) == len(samples)
        times = np.bincount(order, minlength=len(samples))
        assert (abs(np.bincount(labels[order], minlength=5) - expected) < 1).all()
        assert (abs(times - of_video) < 1).all()
        total += times
    assert abs(total / 400 - of_video).max() < 0.15, "six standard errors"


def test_a_video_of_several_labels_is_drawn_by_the_rarest():
    """LVIS's rule: r = max over labels of (1 / frequency) ** power; 1 for a video without labels."""
    several = list_of((0,), (0, 1), (1, 2), (), (0,), (0,), (0, 1), (0,))
    frequency = np.array([6, 3, 1]) / 8
    for power in (0.5, 1.0):
        r = frequency**-power
        factors = np.array([r[0], r[1], r[2], 1, r[0], r[0], r[1], r[0]])
        np.testing.assert_allclose(Draws(several, power).factors, 8 * factors / factors.sum())


def test_uniform_draws_nothing(tiny, samples):
    assert draws(load_config(None, tiny), samples) is None
    found = draws(load_config(None, [*tiny, "DATA.SAMPLER", "balanced"]), samples)
    np.testing.assert_array_equal(found.factors, Draws(samples, 1.0).factors)


def test_occurrences_count_from_0():
    assert occurrences(np.array([3, 1, 3, 3, 2, 1])).tolist() == [0, 0, 1, 2, 0, 1]


def weights_of(counts, *overrides) -> np.ndarray:
    cfg = load_config(None, ["NUM_GPUS", 0, "MODEL.NUM_CLASSES", len(counts), *overrides])
    return class_weights(cfg, np.array(counts, float))


@pytest.mark.parametrize(
    ("options", "proportional"),
    [
        (["inverse"], [1 / 50, 1 / 5, 0, 1 / 20, 1 / 2]),
        (["inv_sqrt"], [50**-0.5, 5**-0.5, 0, 20**-0.5, 2**-0.5]),
        (["effective"], [1 / (1 - 0.999**50), 1 / (1 - 0.999**5), 0, 1 / (1 - 0.999**20), 1 / (1 - 0.999**2)]),
        (["effective", "SOLVER.CLASS_WEIGHT_BETA", 0], [1, 1, 0, 1, 1]),
        ([[2, 0, 5, 1, 4]], [2, 0, 0, 1, 4]),
        (["[2, 0, 5, 1, 4]"], [2, 0, 0, 1, 4]),
    ],
)
def test_weights_and_their_mean_over_videos(options, proportional):
    found = weights_of(COUNTS, "SOLVER.CLASS_WEIGHTS", *options)
    assert found @ COUNTS == pytest.approx(sum(COUNTS))
    np.testing.assert_allclose(found, np.array(proportional) * sum(COUNTS) / (np.array(proportional) @ COUNTS))


def test_no_weights_by_default():
    assert weights_of(COUNTS) is None


def test_the_cap_keeps_the_mean():
    """Inverse of 90, 9 and 1: 0.37, 3.7 and 33. Capped at 4 the last two lie above it, as what the first loses goes to
    them."""
    capped = weights_of([90, 9, 1, 0], "SOLVER.CLASS_WEIGHTS", "inverse", "SOLVER.CLASS_WEIGHT_CAP", 4)
    np.testing.assert_allclose(capped, [60 / 90, 4, 4, 0])
    ten = weights_of([90, 9, 1, 0], "SOLVER.CLASS_WEIGHTS", "inverse")
    np.testing.assert_allclose(ten, [45 / 90, 45 / 9, 10, 0])
    one = weights_of([90, 9, 1, 0], "SOLVER.CLASS_WEIGHTS", "inverse", "SOLVER.CLASS_WEIGHT_CAP", 1)
    np.testing.assert_allclose(one, [1, 1, 1, 0])
    unreachable = weights_of([90, 9, 1], "SOLVER.CLASS_WEIGHTS", [0, 1, 1])
    np.testing.assert_allclose(unreachable, [0, 10, 10])
    unreachable = weights_of([90, 9, 1], "SOLVER.CLASS_WEIGHTS", [0, 1, 1], "SOLVER.CLASS_WEIGHT_CAP", 5)
    np.testing.assert_allclose(unreachable, [0, 5, 5])


def test_counts_with_flips_and_several_labels():
    """Half of the clips of a class count for what they are after a flip; None is not flipped."""
    assert class_counts(list_of(0, 0, 1, 3), 4).tolist() == [2, 1, 0, 1]
    assert class_counts(list_of((0, 2), (), (2,)), 4).tolist() == [1, 0, 2, 0]
    assert class_counts(list_of(0, 0, 1, 3), 4, [2, 1, 0, None]).tolist() == [1, 1, 1, 1]
