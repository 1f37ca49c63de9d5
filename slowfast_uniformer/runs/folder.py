"""What a run has left in its folder, read back: config, starts, figures and predictions."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.errors import UserError

COLUMNS = ("video", "label", "label_name", "prediction", "prediction_name", "correct", "probability")
OF_CLASS = "probability of "
Row = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """A row of predictions.csv. `labels` is empty for a video without a label, `prediction` None for one that
    was not answered; `top` are the most probable classes, and with several labels a video `probabilities` are
    of all."""

    video: str
    labels: tuple[int, ...]
    label_name: str
    prediction: int | None
    prediction_name: str
    probability: float
    top: list[tuple[str, float]]
    probabilities: tuple[float, ...]

    @property
    def wrong(self) -> bool:
        return bool(self.labels) and self.prediction not in self.labels


@dataclass(frozen=True)
class RunFolder:
    """A run: its folder, rows of metrics.jsonl and starts.jsonl, keys of its config with their values (none
    without config.yaml), predictions (None before the test) and, with several labels a video, class names."""

    path: str
    rows: list[Row]
    starts: list[Row]
    config: dict[str, Any]
    predictions: list[Prediction] | None
    classes: list[str]

    def of(self, *splits: str) -> list[Row]:
        return [row for row in self.rows if row["split"] in splits]

    @cached_property
    def names(self) -> dict[int, str]:
        """The names of classes, as far as predictions.csv tells them."""
        known = {p.prediction: p.prediction_name for p in self.predictions or () if p.prediction is not None}
        known |= {p.labels[0]: p.label_name for p in self.predictions or () if len(p.labels) == 1}
        return known | dict(enumerate(self.classes))

    def find(self, video: str) -> str:
        """Where a video is: relative paths are seen from where the run was started, which is known if it
        wrote to a relative OUTPUT_DIR, else from here."""
        out = os.path.normpath(str(self.config.get("OUTPUT_DIR", "")))
        here = os.path.abspath(self.path)
        if os.path.isabs(video) or os.path.exists(video) or not here.endswith(os.sep + out):
            return video
        return os.path.join(here[: -len(out)], video)


def read_run(path: str) -> RunFolder:
    """Read a run's folder, also of a run in progress. Raises UserError where it is none, or naming file and
    line of what is damaged; a line that is still being written is left out."""
    metrics = os.path.join(path, "metrics.jsonl")
    if not os.path.isfile(metrics):
        raise UserError(
            f"{path}: no run's folder, or of one that has recorded nothing yet: it holds no metrics.jsonl. "
            "Name the OUTPUT_DIR of a run"
        )
    rows = _json_lines(metrics)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("split"), str) or not is_number(row.get("step")):
            raise UserError(f"{metrics}, line {number}: no row of a run: it lacks step or split. Remove it")
    starts = os.path.join(path, "starts.jsonl")
    predictions, classes = _predictions(os.path.join(path, "predictions.csv"))
    return RunFolder(
        path, rows, _json_lines(starts) if os.path.isfile(starts) else [], _config(path), predictions, classes
    )


def is_number(value: Any) -> bool:
    """Whether a value of a row can be drawn."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _json_lines(path: str) -> list[Row]:
    rows, lines = [], _text(path).split("\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            if not any(rest.strip() for rest in lines[number:]):
                break  # the end of a run that was killed while it wrote, or that is writing now
            raise UserError(f"{path}, line {number}: not JSON. Remove the line") from None
        if row is not None and not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object. Remove the line")
        rows += [] if row is None else [row]
    return rows


def _config(path: str) -> dict[str, Any]:
    """The resolved config, which has another name where config.yaml was the user's own file."""
    files = [os.path.join(path, name) for name in ("config_resolved.yaml", "config.yaml")]
    file = next(filter(os.path.isfile, files), None)
    if file is None:
        return {}
    try:
        content = yaml.safe_load(_text(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{file}, line {mark.line + 1 if mark else 1}: not valid YAML") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a config; expected sections such as TRAIN: with keys below them")
    return dict(flatten(content))


def _predictions(path: str) -> tuple[list[Prediction] | None, list[str]]:
    if not os.path.isfile(path):
        return None, []
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    head: list[str] = []
    try:
        head = next(reader, [])
        if tuple(head[: len(COLUMNS)]) != COLUMNS:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)}")
        found = [_prediction(head, row) for row in reader]
    except (ValueError, csv.Error) as error:
        where = f"{path}, line {max(reader.line_num, 1)}"
        raise UserError(f"{where}: {error}. Test again (TRAIN.ENABLE False) to write it anew") from None
    return found, [name.removeprefix(OF_CLASS) for name in head if name.startswith(OF_CLASS)]


def _prediction(head: list[str], row: list[str]) -> Prediction:
    if len(row) != len(head):
        raise ValueError(f"{len(row)} fields where the first line has {len(head)}")
    video, label, label_name, prediction, prediction_name, _, probability = row[: len(COLUMNS)]
    answered = bool(prediction)
    return Prediction(
        video,
        tuple(map(_label, filter(None, label.split(",")))),
        label_name,
        _label(prediction) if answered else None,
        prediction_name,
        _probability(probability) if answered else 0.0,
        list(_top(head, row)),
        tuple(_probability(row[i] or "0") for i, name in enumerate(head) if name.startswith(OF_CLASS)),
    )


def _top(head: list[str], row: list[str]) -> Iterator[tuple[str, float]]:
    for i, name in enumerate(head[:-1]):
        if name.startswith("top") and name.endswith("_name") and row[i + 1]:
            yield row[i], _probability(row[i + 1])


def _label(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{text!r} is no label")
    return int(text)


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1.000001:
        raise ValueError(f"{text!r} is no probability")
    return value
