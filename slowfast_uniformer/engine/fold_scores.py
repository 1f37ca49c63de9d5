"""Scores of cross-validation: of each fold, their mean, and of the predictions of all folds together.

PyTorch is not imported, as in engine/scores.py.
"""

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from slowfast_uniformer.engine.intervals import HEADLINE, few_units, intervals, num_units, summary_lines
from slowfast_uniformer.engine.scores import every_video_once, figures, mean_average_precision, outcome_of_predictions
from slowfast_uniformer.paths import atomic_write
from slowfast_uniformer.runs.folds import pool_predictions
from slowfast_uniformer.runs.predictions import Prediction

# Of a row of metrics.jsonl, what is no score
_NO_SCORES = {"step", "split", "epoch", "num_videos", "num_labelled", "checkpoint", "time"}
_IN_TABLE = {**HEADLINE, "ece": "ece", "coverage": "coverage"}


def summarize(output_dir: str, finished: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Write folds.json, and predictions.csv of all folds.

    Args:
        output_dir: The folder of the folds' runs.
        finished: By the name of each finished fold (fold_1) its "output_dir", its "scores", a row of metrics.jsonl, and
            what else is to be kept.
        seed: Of the bootstrap.

    Returns:
        "folds": as given; "scores": of each score its values, "mean" and "std" (of a sample); "pooled": see
        `pooled_scores`, and "coverage".

    Raises:
        UserError: A file of predictions is damaged.
        OSError: The files cannot be written.
    """
    scores: dict[str, dict[str, Any]] = {}
    rows = [each["scores"] for each in finished.values()]
    for name in rows[0] if rows else ():
        values = [row.get(name) for row in rows]
        if name in _NO_SCORES or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            continue
        std = statistics.stdev(values) if len(values) > 1 else None
        scores[name] = {"values": values, "mean": statistics.fmean(values), "std": std}
    paths = {name: os.path.join(fold["output_dir"], "predictions.csv") for name, fold in finished.items()}
    pooled = pooled_scores(*pool_predictions(output_dir, paths), "top5_acc" in scores, seed)
    if pooled:
        predicted = sum(row["coverage"] * row["num_videos"] for row in rows)
        pooled["coverage"] = predicted / sum(row["num_videos"] for row in rows)
    summary = {"folds": dict(finished), "scores": scores, "pooled": pooled}
    atomic_write(os.path.join(output_dir, "folds.json"), json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def pooled_scores(
    predictions: Sequence[Prediction], classes: Sequence[str], with_top5: bool, seed: int
) -> dict[str, Any]:
    """Scores of the predictions of all folds together, failed ones wrong.

    Args:
        predictions: Of all folds.
        classes: The names of all classes where videos have several labels, else nothing.
        with_top5: Whether there are more than five classes.
        seed: Of the bootstrap.

    Returns:
        By their columns in metrics.jsonl the scores in per cent, each with its 95 % interval (`..._low`, `..._high`),
        and `num_videos`, `num_labelled` where some have no label, `num_groups` where there are groups, and `remark`
        where there are few. mAP only where videos have several labels: else predictions.csv lacks probabilities.
        Nothing where a video is there twice, or none has a label.
    """
    labelled = [each for each in predictions if each.labels]
    unique = {(each.video, each.start, each.end) for each in predictions}
    if not labelled or len(unique) < len(predictions):
        return {}
    outcome = outcome_of_predictions(predictions if classes else labelled, len(classes), with_top5)
    found: dict[str, Any] = {}
    for name, values in figures(outcome, every_video_once(outcome)).items():
        found[name] = values.item()
    if classes:
        found["map"] = mean_average_precision(outcome)
    for name, bounds in intervals(outcome, seed).items():
        if all(map(math.isfinite, bounds)):
            found |= {f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
    found["num_videos"] = len(predictions)
    found |= {"num_labelled": len(outcome.truth)} if len(outcome.truth) < len(predictions) else {}
    found |= {"num_groups": num_units(outcome)} if outcome.groups is not None else {}
    note = few_units(outcome)
    return found | ({"remark": note} if note else {})


def summary_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The cells of a table: each score of each fold, mean and standard deviation."""
    rows = [["", *summary["folds"], "mean ± std"]]
    for name, title in _IN_TABLE.items():
        if score := summary["scores"].get(name):
            spread = "" if score["std"] is None else f" ± {score['std']:.2f}"
            rows.append([title, *(f"{value:.2f}" for value in score["values"]), f"{score['mean']:.2f}{spread}"])
    return rows


def pooled_lines(summary: Mapping[str, Any]) -> list[str]:
    """The scores of all predictions together, as a test's summary shows its own."""
    pooled = summary["pooled"]
    if not pooled:
        return ["No scores of all predictions together: a video is in the test lists of two folds, or none has a label"]
    return ["All predictions together:", *summary_lines(pooled), *filter(None, [pooled.get("remark")])]
