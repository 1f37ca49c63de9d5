"""Cross-validation: the folders of folds, and what their runs have found together.

`uniformer lists --folds` writes DATA.PATH_TO_DATA_DIR/fold_1 and so on, `uniformer train --folds` writes
OUTPUT_DIR/fold_1 and so on, and folds.json and predictions.csv of all of them.
"""

import csv
import json
import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_path, atomic_write
from slowfast_uniformer.runs.files import read_json_lines
from slowfast_uniformer.runs.predictions import Prediction, read_predictions

# Of a row of metrics.jsonl, what is no score
_NO_SCORES = {"step", "split", "epoch", "num_videos", "num_labelled", "checkpoint", "time"}


def fold_folders(path: str) -> list[str]:
    """The folders fold_1, fold_2 ... of a folder, as far as their numbers go without a gap."""
    found: list[str] = []
    while os.path.isdir(folder := os.path.join(path, f"fold_{len(found) + 1}")):
        found.append(folder)
    return found


def test_scores(run: str) -> dict[str, Any]:
    """The last row of a run's test. UserError if there is none."""
    path = os.path.join(run, "metrics.jsonl")
    rows = read_json_lines(path) if os.path.isfile(path) else []
    if row := next((row for row in reversed(rows) if row.get("split") == "test_final"), None):
        return row
    raise UserError(f"{run}: the test's metrics could not be written; free disk space and start again")


def read_finished(output_dir: str) -> dict[str, dict[str, Any]]:
    """What folds.json says of the folds that are finished, by their names.

    Raises:
        UserError: The file is damaged.
    """
    path = os.path.join(output_dir, "folds.json")
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file)["folds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it, then the same command tests the folds again") from None


def summarize(output_dir: str, finished: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write folds.json, and predictions.csv of all folds.

    Args:
        output_dir: The folder of the folds' runs.
        finished: By the name of each finished fold (fold_1) its "output_dir", its "scores", a row of metrics.jsonl, and
            what else is to be kept.

    Returns:
        "folds": as given; "scores": of each score its values, "mean" and "std" (of a sample); "pooled": scores of the
        predictions of all folds together, where no video is in two of them and each has one label.

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
    summary = {"folds": dict(finished), "scores": scores, "pooled": _pool(output_dir, paths)}
    atomic_write(os.path.join(output_dir, "folds.json"), json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def _pool(output_dir: str, paths: Mapping[str, str]) -> dict[str, float]:
    """Write the predictions of all folds into one file, with a column of the fold."""
    found: list[Prediction] = []
    with (
        atomic_path(os.path.join(output_dir, "predictions.csv")) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer, head = csv.writer(file), None
        for name, path in paths.items():
            found += read_predictions(path)[0]
            with open(path, encoding="utf-8", newline="") as fold:
                rows = csv.reader(fold)
                first = next(rows)
                if head is None:
                    writer.writerow([*first, "fold"])
                if head not in (None, first):
                    raise UserError(
                        f"{path}: its columns differ from those of the folds before; test all folds with one config"
                    )
                head = first
                writer.writerows([*row, name] for row in rows)
    return pooled_scores(found)


def pooled_scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Accuracy and mean class accuracy (in per cent) of predictions, failed ones wrong; nothing where a video is there
    twice, or has several labels."""
    if len({(each.video, each.start, each.end) for each in predictions}) < len(predictions):
        return {}
    labelled = [each for each in predictions if each.labels]
    if not labelled or any(each.probabilities or len(each.labels) > 1 for each in labelled):
        return {}
    right, all_of = Counter(each.labels[0] for each in labelled if not each.wrong), defaultdict(int)
    for each in labelled:
        all_of[each.labels[0]] += 1
    of_classes = [right[label] / count for label, count in all_of.items()]
    top1 = right.total() / len(labelled)
    return {"top1_acc": 100 * top1, "mean_class_acc": 100 * statistics.fmean(of_classes)}


def summary_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The cells of a table: each score of each fold, mean and standard deviation, and of the pooled predictions."""
    pooled = summary["pooled"]
    rows = [["", *summary["folds"], "mean ± std", *["pooled"] * bool(pooled)]]
    for name, score in summary["scores"].items():
        spread = "" if score["std"] is None else f" ± {score['std']:.2f}"
        cells = [f"{value:.2f}" for value in score["values"]] + [f"{score['mean']:.2f}{spread}"]
        together = pooled.get(name, math.nan)
        rows.append([name, *cells, *["" if math.isnan(together) else f"{together:.2f}"] * bool(pooled)])
    return rows
