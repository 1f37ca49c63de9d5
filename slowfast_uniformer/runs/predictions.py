"""predictions.csv, written and read, class_scores.csv and submission.csv."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slowfast_uniformer.data.sample_list import Sample, SampleList
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_path, atomic_write
from slowfast_uniformer.runs.files import read_text

if TYPE_CHECKING:
    from torch import Tensor

# The columns of predictions.csv. After these come top1_name, top1_probability and so on to TOP and, with several labels
# a video, a column for each class that begins with CLASS_COLUMN. A column `group` is read where there is one.
COLUMNS = ("video", "label", "label_name", "prediction", "prediction_name", "correct", "probability")
TOP = 5
CLASS_COLUMN = "probability of "


@dataclass(frozen=True)
class Prediction:
    """A row of predictions.csv.

    Attributes:
        video: the path in the annotation list.
        labels: empty for a video without a label.
        label_name: their names, separated by "; ".
        prediction: the most probable class, or None for a video that failed.
        prediction_name: its name.
        probability: its probability, 0 to 1.
        top: the most probable classes, (name, probability).
        probabilities: with several labels a video, of all classes, in label order.
        start: of the segment, in seconds; None for a whole video.
        end: of the segment.
        group: what the video belongs to, such as a person; "" if the list does not say.
    """

    video: str
    labels: tuple[int, ...]
    label_name: str
    prediction: int | None
    prediction_name: str
    probability: float
    top: list[tuple[str, float]]
    probabilities: tuple[float, ...]
    start: float | None = None
    end: float | None = None
    group: str = ""

    @property
    def wrong(self) -> bool:
        return bool(self.labels) and self.prediction not in self.labels


def write_predictions(
    path: str,
    samples: Sequence[Sample],
    probabilities: "Tensor",
    predicted: "Tensor",
    names: Sequence[str] | None,
    multi_label: bool,
) -> None:
    """Write a row for each video: path, label, prediction, correctness and the five most probable classes; in the last
    columns start and end of segments (seconds) and groups, where the list has them.

    Args:
        path: the file to write.
        samples: V videos with their labels.
        probabilities: (V, K), 0 to 1.
        predicted: (V,) bool, False for videos that failed: their predictions are empty.
        names: K class names in label order; None writes labels instead.
        multi_label: whether videos have several labels. Then `label` holds all, `correct` says whether the most
            probable class is one of them, and the probabilities of all classes follow.
    """
    samples = samples if isinstance(samples, SampleList) else SampleList.of(samples)
    count = min(TOP, probabilities.shape[1])
    top = probabilities.topk(count, dim=1)
    name = (lambda label: names[label]) if names else str
    classes = range(probabilities.shape[1]) if multi_label else ()
    head = [*COLUMNS, *(f"top{k}_{what}" for k in range(1, count + 1) for what in ("name", "probability"))]
    head += [f"{CLASS_COLUMN}{name(label)}" for label in classes]
    more = {"start": samples.has_segments, "end": samples.has_segments, "group": samples.has_groups}
    more = [column for column, present in more.items() if present]
    text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}  # a path may be no UTF-8
    with atomic_path(path) as temporary, open(temporary, "w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(head + more)
        for i, sample in enumerate(samples):
            true = sample.labels
            row: list[Any] = [sample.path, ",".join(map(str, true)), "; ".join(map(name, true))]
            if predicted[i]:
                best = int(top.indices[i, 0])
                row += [best, name(best), int(best in true) if true else "", f"{top.values[i, 0]:.6f}"]
                for label, probability in zip(top.indices[i].tolist(), top.values[i].tolist(), strict=True):
                    row += [name(label), f"{probability:.6f}"]
                row += [f"{probabilities[i, label]:.6f}" for label in classes]
            start, end = sample.segment or ("", "")
            others = {"start": start, "end": end, "group": sample.group}
            writer.writerow(row + [""] * (len(head) - len(row)) + [others[column] for column in more])


def read_predictions(path: str) -> tuple[list[Prediction], list[str]]:
    """The rows of a predictions.csv and, with several labels a video, the names of all classes.

    Raises:
        UserError: naming file and line of what is damaged.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        head = next(reader, [])
        if tuple(head[: len(COLUMNS)]) != COLUMNS:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)}")
        found = [_prediction(head, row) for row in reader]
    except (ValueError, csv.Error) as error:
        where = f"{path}, line {max(reader.line_num, 1)}"
        raise UserError(f"{where}: {error}. Test again (TRAIN.ENABLE False) to write it anew") from None
    return found, [column.removeprefix(CLASS_COLUMN) for column in head if column.startswith(CLASS_COLUMN)]


def _prediction(head: list[str], row: list[str]) -> Prediction:
    if len(row) != len(head):
        raise ValueError(f"{len(row)} fields where the first line has {len(head)}")
    video, label, label_name, prediction, prediction_name, _, probability = row[: len(COLUMNS)]
    fields = dict(zip(head, row, strict=True))
    tops = [f"top{k}_" for k in range(1, TOP + 1) if fields.get(f"top{k}_probability")]
    return Prediction(
        video,
        labels=tuple(map(_label, filter(None, label.split(",")))),
        label_name=label_name,
        prediction=_label(prediction) if prediction else None,
        prediction_name=prediction_name,
        probability=_probability(probability) if prediction else 0.0,
        top=[(fields[f"{top}name"], _probability(fields[f"{top}probability"])) for top in tops],
        probabilities=tuple(_probability(row[i] or "0") for i in range(len(row)) if head[i].startswith(CLASS_COLUMN)),
        start=float(fields["start"]) if fields.get("start") else None,
        end=float(fields["end"]) if fields.get("end") else None,
        group=fields.get("group", ""),
    )


def _label(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{text!r} is no label")
    return int(text)


def _probability(text: str) -> float:
    value = math.nan
    with suppress(ValueError):
        value = float(text)
    if not 0 <= value <= 1.000001:
        raise ValueError(f"{text!r} is no probability")
    return value


def write_class_scores(path: str, columns: Mapping[str, Sequence[float]], names: Sequence[str] | None) -> None:
    """Write a row for each class: label, name, number of videos and scores in per cent.

    Args:
        path: the file to write.
        columns: `videos` and scores by name, each with a value for each of K classes; nan is an empty field.
        names: K class names in label order; None writes labels instead.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "name", *columns])
    for label, (videos, *scores) in enumerate(zip(*columns.values(), strict=True)):
        shown = ["" if math.isnan(score) else f"{score:.2f}" for score in scores]
        writer.writerow([label, names[label] if names else label, int(videos), *shown])
    atomic_write(path, text.getvalue())


def read_class_scores(path: str) -> list[dict[str, Any]]:
    """The rows of a class_scores.csv: `name`, and numbers by their columns; None for an empty field.

    Raises:
        UserError: naming file and line of what is damaged.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        if reader.fieldnames is None or reader.fieldnames[:3] != ["label", "name", "videos"]:
            raise ValueError("expected the columns label, name, videos")
        return [
            {key: value if key == "name" else float(value) if value else None for key, value in row.items()}
            for row in reader
        ]
    except (ValueError, TypeError, csv.Error) as error:
        where = f"{path}, line {max(reader.line_num, 1)}"
        raise UserError(f"{where}: {error}. Test again (TRAIN.ENABLE False) to write it anew") from None


def write_submission(path: str, samples: Sequence[Sample], scores: "Tensor", names: Sequence[str] | None) -> None:
    """Write a submission.csv as Something-Something's evaluation server takes it.

    Each line is a video's id (its file name without ending) and its five most probable classes by name, separated by
    semicolons.

    Args:
        path: the file to write.
        samples: V videos.
        scores: (V, K), logits or probabilities.
        names: K class names in label order; None writes labels instead.
    """
    best = scores.topk(min(TOP, scores.shape[1]), dim=1).indices.tolist()
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        for sample, labels in zip(samples, best, strict=True):
            video = os.path.splitext(os.path.basename(sample.path))[0]
            file.write(";".join([video, *(names[k] if names else str(k) for k in labels)]) + "\n")
