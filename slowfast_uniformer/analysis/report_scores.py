"""Scores in a report: those of each class, and whether runs differ by more than chance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slowfast_uniformer.engine.intervals import Difference, differences, num_units
from slowfast_uniformer.engine.scores import TOP, Outcome, outcome_of_predictions
from slowfast_uniformer.runs.folder import RunFolder
from slowfast_uniformer.runs.predictions import Prediction
from slowfast_uniformer.wording import counted

TITLES = {  # of the columns of metrics.jsonl
    "top1_acc": "top-1",
    "top5_acc": "top-5",
    "mean_class_acc": "mean per class",
    "map": "mAP",
    "macro_f1": "macro-F1",
}
TOO_FEW = "too few videos or groups for an interval"
NONE_SHARED = "no video is in both predictions.csv by the same path, label and class name: test both on the same list"


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same videos.

    Attributes:
        first, second: the numbers of the runs, from 0.
        videos: how many videos both have with the same labels.
        others: how many videos of the run with more are left out.
        groups: the number of groups, over which intervals are, or 0.
        differences: by title; empty where `remark` says why.
    """

    first: int
    second: int
    videos: int
    others: int
    groups: int
    differences: dict[str, Difference]

    @property
    def remark(self) -> str:
        """Why there are no differences."""
        return "" if self.differences else TOO_FEW if self.videos else NONE_SHARED


def scored(run: RunFolder) -> list[Prediction]:
    """The predictions that count: those with a label; with several labels a video all (without: of no class)."""
    return [prediction for prediction in run.predictions or () if prediction.labels or run.classes]


def outcome_of(run: RunFolder, predictions: Sequence[Prediction]) -> Outcome:
    """What the test of a run found for these predictions of it, at least one."""
    with_top5 = run.config.get("MODEL.NUM_CLASSES", 0) > TOP
    return outcome_of_predictions(predictions, len(run.classes), with_top5)


def compare(runs: Sequence[RunFolder]) -> list[Comparison]:
    """Compare each tested run with the first one, on the videos that both have with the same labels."""
    found = []
    for number, run in enumerate(runs[1:], 1):
        if not scored(runs[0]) or not scored(run):
            continue
        pairs, by_column, groups = _pairs(runs[0], run), {}, 0
        if pairs:
            sides = zip(*pairs, strict=True)
            first, second = (outcome_of(one, side) for one, side in zip((runs[0], run), sides, strict=True))
            groups = num_units(first) if first.groups is not None else 0
            by_column = differences(first, second, run.config.get("RNG_SEED", 1))
        named = {title: by_column[column] for column, title in TITLES.items() if column in by_column}
        most = max(len(scored(runs[0])), len(scored(run)))
        found.append(Comparison(0, number, len(pairs), most - len(pairs), groups, named))
    return found


def _pairs(first: RunFolder, second: RunFolder) -> list[tuple[Prediction, Prediction]]:
    """The predictions of both runs for each video that both have with the same labels.

    Where a list has a path several times (parts of a video), the first of it belongs to the first of the other run.
    """
    if first.classes != second.classes:
        return []
    of_runs = []
    for run in (first, second):
        seen: Counter[str] = Counter()
        keyed = {}
        for p in scored(run):
            keyed[p.video, seen[p.video], p.labels, p.label_name] = p
            seen[p.video] += 1
        of_runs.append(keyed)
    return [(p, of_runs[1][key]) for key, p in of_runs[0].items() if key in of_runs[1]]


def sentences(comparisons: Sequence[Comparison], names: Sequence[str]) -> list[str]:
    """What is printed of comparisons of runs with these names."""
    lines = []
    for one in comparisons:
        over = f", bootstrap over {counted(one.groups, 'group')}" if one.groups else ""
        lines.append(f"{names[one.second]} against {names[one.first]}, {counted(one.videos, 'video')} of both{over}:")
        for title, found in one.differences.items():
            verdict = "larger than chance" if found.beyond_chance else "may be chance"
            lines.append(
                f"  {title} {found.first:.2f} -> {found.second:.2f} %, difference {found.second - found.first:+.2f} "
                f"[{found.low:+.2f}, {found.high:+.2f}]: {verdict}"
            )
        if one.remark:
            lines.append(f"  {one.remark}")
    return lines
