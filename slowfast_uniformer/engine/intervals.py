"""95 % intervals of a test's figures, and whether two runs differ by more than chance: a bootstrap over videos.

Videos are drawn with replacement, as many as there are, again and again; an interval holds the middle 95 % of the
figures of these resamples (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13), corrected for bias
(chapter 14, without acceleration) and widened a little where there are few videos (Hesterberg, What Teachers Should
Know About the Bootstrap, 2015: percentiles by Student's t). Where videos belong to groups (takes of one person, parts
of one recording) groups are drawn instead: videos of a group are alike, and say less than as many others.

PyTorch is not imported, as in engine/scores.py.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from slowfast_uniformer.engine.scores import Outcome, average_precisions, every_video_once, figures, mean_over_classes
from slowfast_uniformer.runs.tensorboard import BOUNDS
from slowfast_uniformer.wording import counted

RESAMPLES = 2000
CHUNK = 200  # resamples at once: 8 MB for 20,000 videos
# Average precision sorts every class: resamples x videos x classes stay below this, for some seconds of work, but there
# are at least so many resamples. 20,000 videos of 400 classes have 200.
WORK, FEWEST = 1_500_000_000, 200
Interval = tuple[float, float]
FEW = 20  # videos, or groups of them, below which intervals are rough
HEADLINE = {  # columns of a test's row that its summary shows
    "top1_acc": "top-1",
    "top5_acc": "top-5",
    "mean_class_acc": "mean per-class",
    "macro_f1": "macro-F1",
    "map": "mAP",
}


@dataclass(frozen=True)
class Difference:
    """A figure of two runs on the same videos, in per cent.

    Attributes:
        first, second: the figure of each run.
        low, high: 95 % interval of second - first.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def num_units(outcome: Outcome) -> int:
    """What a resample draws: the number of groups, or of videos where there are no groups."""
    return len(outcome.truth) if outcome.groups is None else len(np.unique(outcome.groups))


def intervals(outcome: Outcome, seed: int) -> dict[str, Interval]:
    """The 95 % interval of each figure, low and high in per cent, by its column in metrics.jsonl.

    Where the bootstrap sees no variation, as all videos are right (or all wrong), the exact bound of a proportion
    without a failure takes its place: of n videos (1 - 0.95)/2 to the power of 1/n (Clopper and Pearson 1934).

    Args:
        outcome: of V videos.
        seed: of the resamples.

    Returns:
        Nothing for fewer than two videos, or two groups.
    """
    units = num_units(outcome)
    if units < 2:
        return {}
    found, whole = {}, _whole(outcome)
    for name, values in _resampled([outcome], seed).items():
        low, high = _middle(values[0], whole[name], units)
        if low == high and low in (0.0, 100.0):
            bound = 100.0 * 0.025 ** (1 / units)
            low, high = (bound, 100.0) if low else (0.0, 100.0 - bound)
        found[name] = low, high
    return found


def differences(first: Outcome, second: Outcome, seed: int) -> dict[str, Difference]:
    """How the figures of two runs on the same V videos differ: each resample is the same videos for both (a paired
    bootstrap), so that videos which are hard for both do not blur the difference.

    Args:
        first, second: of the same videos in the same order, with the same groups.
        seed: of the resamples.

    Returns:
        By the columns that both have in metrics.jsonl; nothing for fewer than two videos, or two groups.
    """
    units = num_units(first)
    if units < 2:
        return {}
    whole = [_whole(outcome) for outcome in (first, second)]
    found = {}
    for name, (one, other) in _resampled([first, second], seed).items():
        values = [of_run[name] for of_run in whole]
        found[name] = Difference(*values, *_middle(other - one, values[1] - values[0], units))
    return found


def few_units(outcome: Outcome) -> str:
    """What is to be said of intervals of few videos or groups; "" where there are enough."""
    units, what = num_units(outcome), "test videos" if outcome.groups is None else "groups of videos"
    return f"only {units} {what}: the 95 % intervals are rough, and the scores say little" if units < FEW else ""


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """A line for each figure of a test, and one that says what they are of.

    Args:
        metrics: A `test_final` row of metrics.jsonl, or figures of the same names.
    """
    lines = [_with_interval(metrics, key, name) for key, name in HEADLINE.items() if key in metrics]
    labelled = f", {metrics['num_labelled']} labelled" if "num_labelled" in metrics else ""
    labelled = labelled if lines else ", no labels"
    text = f"{counted(metrics['num_videos'], 'video')}{labelled}, {metrics['coverage']:.2f} % predicted"
    if any(f"{key}{BOUNDS[0]}" in metrics for key in HEADLINE):
        units = f"{metrics['num_groups']} groups" if "num_groups" in metrics else "the videos"
        text += f"; in brackets: 95 % intervals, by a bootstrap over {units}"
    return [*lines, text]


def _with_interval(metrics: Mapping[str, Any], key: str, name: str) -> str:
    """A figure with its 95 % interval, such as "top-1            62.50 %  [58.12, 66.71]"."""
    bounds = [metrics.get(f"{key}{end}") for end in BOUNDS]
    interval = "" if None in bounds else "  [{:.2f}, {:.2f}]".format(*bounds)
    return f"{name:<14} {metrics[key]:>6.2f} %{interval}"


def _figures(outcome: Outcome, weights: np.ndarray, with_map: bool) -> dict[str, np.ndarray]:
    found = figures(outcome, weights)
    if with_map and outcome.probabilities is not None:
        found["map"] = mean_over_classes(average_precisions(outcome, weights))
    return found


def _whole(outcome: Outcome) -> dict[str, float]:
    """The figures of the test itself."""
    return {name: float(values[0]) for name, values in _figures(outcome, every_video_once(outcome), True).items()}


def _resampled(outcomes: list[Outcome], seed: int) -> dict[str, np.ndarray]:
    """The figures that all runs have, (runs, resamples) by name."""
    one = outcomes[0]
    most = max(WORK // (len(one.truth) * one.num_classes * len(outcomes)), FEWEST)
    found: dict[str, list[np.ndarray]] = {}
    for number, weights in enumerate(_draws(one, seed)):
        of_runs = [_figures(outcome, weights, number * CHUNK < most) for outcome in outcomes]
        for name in of_runs[0].keys() & of_runs[-1].keys():
            found.setdefault(name, []).append(np.stack([of_run[name] for of_run in of_runs]))
    return {name: np.concatenate(found[name], axis=1) for name in sorted(found)}


def _draws(outcome: Outcome, seed: int) -> Iterator[np.ndarray]:
    """How often each video counts in each resample, (V, CHUNK) int16, until there are RESAMPLES."""
    generator, units = np.random.default_rng(seed), num_units(outcome)
    numbers = None if outcome.groups is None else np.unique(outcome.groups, return_inverse=True)[1]
    for _ in range(RESAMPLES // CHUNK):
        drawn = generator.integers(units, size=(CHUNK, units))
        counts = np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(np.int16).T.copy()
        yield counts if numbers is None else counts[numbers]


def _middle(values: np.ndarray, whole: float, units: int) -> Interval:
    """The interval of the middle 95 % of resampled values, by `_width`; without resamples that have no value.

    Args:
        values: (R,).
        whole: the value of the test itself. Where it is no median of the resamples they are biased (average precision:
            a video that is drawn twice raises it), and the interval is corrected for that.
        units: see `num_units`.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    normal = NormalDist()
    below = ((values < whole).sum() + (values <= whole).sum()) / 2
    bias = normal.inv_cdf(min(max(below / len(values), 0.5 / len(values)), 1 - 0.5 / len(values)))
    levels = [normal.cdf(2 * bias + side * _width(units)) for side in (-1, 1)]
    low, high = np.quantile(values, levels, method="weibull")
    return float(low), float(high)


def _width(units: int) -> float:
    """Standard deviations from the middle to either end of an interval: 1.96 for many units, more for few.

    Student's quantile is the normal one with three terms of its expansion (Abramowitz and Stegun, 26.7.5).
    """
    z, freedom = NormalDist().inv_cdf(0.975), units - 1
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return math.sqrt(units / freedom) * t
