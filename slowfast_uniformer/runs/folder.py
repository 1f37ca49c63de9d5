"""Reading a run's folder: config, starts, metrics and predictions, also of a run in progress."""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slowfast_uniformer.config.files import read_yaml
from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.class_balance import ClassBalance, read_class_balance
from slowfast_uniformer.runs.files import Row, read_json_lines
from slowfast_uniformer.runs.predictions import Prediction, read_class_scores, read_predictions

PREVIEWS = ("preview_clips.png", "preview_mixed.png")  # of `uniformer check --preview`


@dataclass(frozen=True)
class RunFolder:
    """What a run's folder holds.

    Attributes:
        path: the folder.
        rows: of metrics.jsonl.
        starts: rows of starts.jsonl.
        config: values of the resolved config by key; empty without a config file.
        predictions: rows of predictions.csv; None before the test.
        classes: class names, where videos have several labels.
        class_balance: what the training did about unbalanced classes; empty where it did nothing.
        class_scores: rows of class_scores.csv; empty before the test.
    """

    path: str
    rows: list[Row]
    starts: list[Row]
    config: dict[str, Any]
    predictions: list[Prediction] | None
    classes: list[str]
    class_balance: list[ClassBalance]
    class_scores: list[Row]

    def of(self, *splits: str) -> list[Row]:
        """The rows of metrics.jsonl of these splits."""
        return [row for row in self.rows if row["split"] in splits]

    @cached_property
    def names(self) -> dict[int, str]:
        """Class names by label, of the classes that occur in predictions.csv."""
        known = {p.prediction: p.prediction_name for p in self.predictions or () if p.prediction is not None}
        known |= {p.labels[0]: p.label_name for p in self.predictions or () if len(p.labels) == 1}
        return known | dict(enumerate(self.classes))

    def find(self, video: str) -> str:
        """The path of a video.

        A relative path starts at the folder the run was started in, which is known if OUTPUT_DIR was relative; else at
        the current folder.
        """
        out = os.path.normpath(str(self.config.get("OUTPUT_DIR", "")))
        here = os.path.abspath(self.path)
        if os.path.isabs(video) or os.path.exists(video) or not here.endswith(os.sep + out):
            return video
        return os.path.join(here[: -len(out)], video)


def read_run(path: str) -> RunFolder:
    """Read a run's folder.

    Raises:
        UserError: it is no run's folder, or a file in it is damaged, naming file and line.
    """
    metrics, starts, predictions, class_scores = (
        os.path.join(path, name) for name in ("metrics.jsonl", "starts.jsonl", "predictions.csv", "class_scores.csv")
    )
    if not os.path.isfile(metrics):
        raise UserError(
            f"{path}: not a run's folder, or the run has recorded nothing yet: it holds no metrics.jsonl. "
            "Name the OUTPUT_DIR of a run"
        )
    rows = read_json_lines(metrics)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("split"), str) or not is_number(row.get("step")):
            raise UserError(f"{metrics}, line {number}: no row of a run: it lacks step or split. Remove it")
    tested = os.path.isfile(predictions)
    found, classes = read_predictions(predictions) if tested else (None, [])
    begun = read_json_lines(starts) if os.path.isfile(starts) else []
    scores = read_class_scores(class_scores) if os.path.isfile(class_scores) else []
    return RunFolder(path, rows, begun, _config(path), found, classes, read_class_balance(path), scores)


def is_number(value: Any) -> bool:
    """Whether a value of a row can be drawn."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _config(path: str) -> dict[str, Any]:
    """The resolved config, which has another name where config.yaml was the user's own file."""
    files = [os.path.join(path, name) for name in ("config_resolved.yaml", "config.yaml")]
    file = next(filter(os.path.isfile, files), None)
    if file is None:
        return {}
    return dict(flatten(read_yaml(file).content))
