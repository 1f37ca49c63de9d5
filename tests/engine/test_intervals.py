"""Intervals hold the true figure as often as they say, and differences of runs are told from chance."""

import numpy as np
import pytest

from slowfast_uniformer.engine import intervals as module
from slowfast_uniformer.engine.intervals import differences, intervals, num_units
from slowfast_uniformer.engine.scores import Outcome, average_precisions, every_video_once, figures, mean_over_classes

SHARES = np.array([0.4, 0.25, 0.15, 0.12, 0.08])  # of the classes


def draw(rng: np.random.Generator, videos: int, groups: int = 0, with_map: bool = False) -> Outcome:
    """Videos of five classes from a population in which those of a group are alike easy or hard."""
    truth = rng.choice(len(SHARES), size=videos, p=SHARES)
    logits = rng.normal(size=(videos, len(SHARES)))
    easy = 1.5
    numbers = None
    if groups:
        numbers = rng.integers(groups, size=videos)
        easy = easy + rng.normal(size=groups)[numbers]
    logits[np.arange(videos), truth] += easy
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kept = probabilities if with_map else None
    return Outcome(truth, logits.argmax(1), len(SHARES), probabilities=kept, groups=numbers)


def whole(outcome: Outcome) -> dict[str, float]:
    once = every_video_once(outcome)
    found = figures(outcome, once)
    if outcome.probabilities is not None:
        found["map"] = mean_over_classes(average_precisions(outcome, once))
    return {name: value.item() for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "videos, groups, with_map, times",
    [
        (300, 0, False, 2000),
        (100, 0, False, 2000),
        (320, 40, False, 2000),
        (300, 15, False, 2000),
        (300, 0, True, 1000),
    ],
)
def test_intervals_hold_the_figure_of_the_population_95_times_of_100(monkeypatch, videos, groups, with_map, times):
    monkeypatch.setattr(module, "RESAMPLES", 600)
    rng = np.random.default_rng(1)
    population = whole(draw(rng, 1000 * videos, 1000 * groups, with_map))
    hits = dict.fromkeys(population, 0)
    for seed in range(times):
        for name, (low, high) in intervals(draw(rng, videos, groups, with_map), seed).items():
            hits[name] += low <= population[name] <= high
    coverage = {name: 100 * count / times for name, count in hits.items()}
    assert coverage == pytest.approx(dict.fromkeys(population, 95.0), abs=2), coverage


@pytest.mark.slow
def test_two_equal_models_differ_by_chance_95_times_of_100(monkeypatch):
    """Two models of the same accuracy, which find the same videos hard."""
    monkeypatch.setattr(module, "RESAMPLES", 600)
    rng, times, false_alarms = np.random.default_rng(2), 1500, 0
    for seed in range(times):
        truth = rng.integers(4, size=200)
        hard = rng.random(200)
        of_models = []
        for _ in range(2):
            right = rng.random(200) < np.where(hard < 0.3, 0.2, 0.9)
            of_models.append(Outcome(truth, np.where(right, truth, (truth + 1) % 4), 4))
        false_alarms += differences(*of_models, seed)["top1_acc"].beyond_chance
    assert 100 * false_alarms / times == pytest.approx(5, abs=2)


def test_an_interval_of_a_proportion_is_about_the_known_one():
    truth = np.zeros(400, np.int64)
    low, high = intervals(Outcome(truth, np.where(np.arange(400) < 300, 0, 1), 2), 1)["top1_acc"]
    width = 1.96 * 100 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == pytest.approx((75 - width, 75 + width), abs=0.6)


def test_a_seed_gives_the_same_interval_again():
    one = draw(np.random.default_rng(0), 60, with_map=True)
    assert intervals(one, 3) == intervals(one, 3) != intervals(one, 4)
    assert intervals(one, 3).keys() == {"top1_acc", "mean_class_acc", "macro_f1", "map"}


def test_videos_of_few_groups_say_less():
    rng = np.random.default_rng(5)
    grouped = draw(rng, 400, groups=20)
    alone = Outcome(grouped.truth, grouped.predicted, grouped.num_classes)
    assert (num_units(grouped), num_units(alone)) == (20, 400)
    (low, high), (near_low, near_high) = (intervals(one, 1)["top1_acc"] for one in (grouped, alone))
    assert high - low > 1.5 * (near_high - near_low)
    named = Outcome(*(grouped.truth, grouped.predicted, grouped.num_classes), groups=1000 + 7 * grouped.groups)
    assert intervals(named, 1) == intervals(grouped, 1), "only which videos share a group counts"


def test_where_all_videos_are_right_the_bound_is_the_exact_one():
    truth = np.arange(30) % 3
    bound = 100 * 0.025 ** (1 / 30)  # 88.43 %
    assert intervals(Outcome(truth, truth, 3), 1)["top1_acc"] == pytest.approx((bound, 100.0))
    assert intervals(Outcome(truth, (truth + 1) % 3, 3), 1)["macro_f1"] == pytest.approx((0.0, 100 - bound))


def test_a_single_video_or_group_has_no_interval():
    one = np.array([1])
    assert intervals(Outcome(one, one, 2), 1) == {} == differences(Outcome(one, one, 2), Outcome(one, one, 2), 1)
    many = np.zeros(50, np.int64)
    assert intervals(Outcome(many, many, 2, groups=many), 1) == {}
    assert len(intervals(Outcome(many[:2], many[:2], 2), 1)) == 3


def test_differences_are_paired():
    """Ten more of the same videos are right: more than chance, although the intervals of both runs overlap."""
    truth = np.arange(300) % 3
    wrong = np.random.default_rng(0).permutation(300)[:120]
    first, second = truth.copy(), truth.copy()
    first[wrong] = (first[wrong] + 1) % 3
    second[wrong[10:]] = (second[wrong[10:]] + 1) % 3
    first, second = Outcome(truth, first, 3), Outcome(truth, second, 3)
    found = differences(first, second, 1)["top1_acc"]
    assert (found.first, found.second) == pytest.approx((60.0, 60 + 10 / 3)) and found.beyond_chance
    assert 0 < found.low < 10 / 3 < found.high
    one, other = intervals(first, 1)["top1_acc"], intervals(second, 1)["top1_acc"]
    assert one[1] > other[0]
    back = differences(second, first, 1)["top1_acc"]
    assert back.low < 0 and back.high < 0 and back.beyond_chance
    assert not differences(first, first, 1)["top1_acc"].beyond_chance


def test_average_precision_of_many_videos_and_classes_takes_fewer_resamples(monkeypatch):
    counted = []
    monkeypatch.setattr(
        module, "average_precisions", lambda _, weights: counted.append(weights.shape[1]) or np.zeros(weights.shape)
    )
    one = draw(np.random.default_rng(0), 50, with_map=True)
    intervals(one, 1)
    assert sum(counted) == 1 + module.RESAMPLES
    counted.clear()
    monkeypatch.setattr(module, "WORK", 50 * 5 * 300)  # 300 resamples
    intervals(one, 1)
    assert sum(counted) == 1 + 2 * module.CHUNK
