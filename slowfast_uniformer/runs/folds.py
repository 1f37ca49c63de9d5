"""Cross-validation: the folders of folds, and their predictions together.

`uniformer lists --folds` writes DATA.PATH_TO_DATA_DIR/fold_1 and so on, `uniformer train --folds` writes
OUTPUT_DIR/fold_1 and so on, and folds.json (engine/fold_scores.py) and predictions.csv of all of them.
"""

import csv
import json
import os
from collections.abc import Mapping
from typing import Any

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_path
from slowfast_uniformer.runs.files import read_json_lines
from slowfast_uniformer.runs.predictions import Prediction, read_predictions


def fold_folders(path: str) -> list[str]:
    """The folders fold_1, fold_2 ... of a folder, as far as their numbers go without a gap."""
    found: list[str] = []
    while os.path.isdir(folder := os.path.join(path, f"fold_{len(found) + 1}")):
        found.append(folder)
    return found


def fold_runs(path: str) -> list[str]:
    """The runs of folds in a folder that is no run itself: those that have recorded something."""
    if os.path.isfile(os.path.join(path, "metrics.jsonl")):
        return []
    return [fold for fold in fold_folders(path) if os.path.isfile(os.path.join(fold, "metrics.jsonl"))]


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


def pool_predictions(output_dir: str, paths: Mapping[str, str]) -> tuple[list[Prediction], list[str]]:
    """Write the predictions of all folds into OUTPUT_DIR/predictions.csv, with a column of the fold.

    Args:
        output_dir: The folder of the folds' runs.
        paths: The predictions.csv of each fold by its name.

    Returns:
        The predictions and, with several labels a video, the names of all classes.

    Raises:
        UserError: A file is damaged, or has other columns than those of the folds before.
        OSError: The file cannot be written.
    """
    found: list[Prediction] = []
    classes: list[str] = []
    with (
        atomic_path(os.path.join(output_dir, "predictions.csv")) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer, head = csv.writer(file), None
        for name, path in paths.items():
            of_fold, classes = read_predictions(path)
            found += of_fold
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
    return found, classes
