"""Reading a run's folder: config, starts, metrics and predictions, also of a run in progress."""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slowfast_uniformer.config.files import read_yaml
from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.class_balance import ClassBalance, read_class_balance
from slowfast_uniformer.runs.files import Row, read_json_lines
from slowfast_uniformer.runs.folds import fold_runs
from slowfast_uniformer.runs.predictions import Prediction, read_class_scores, read_predictions
from slowfast_uniformer.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

PREVIEWS = ("preview_clips.png", "preview_mixed.png")  # of `uniformer check --preview`


@dataclass(frozen=True)
class RunFolder:
    """What a run's folder holds (see `read_run`).

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
        """The rows of metrics.jsonl of these splits: train_iter, train_epoch, val_epoch, test_final."""
        return [row for row in self.rows if row["split"] in splits]

    def curve(self, split: str, column: str) -> tuple[list[float], list[float]]:
        """A metric over the run: epochs done, such as 0.5, and the value at each. Rows without the metric are left out.

        Args:
            split: train_iter (a row each LOG_PERIOD steps), train_epoch or val_epoch.
            column: a column of metrics.jsonl, such as "loss", "top1_acc" (per cent) or "lr".
        """
        rows = [(epochs_done(row), row.get(column)) for row in self.of(split)]
        found = [(at, value) for at, value in rows if at is not None and is_number(value)]
        return [at for at, _ in found], [value for _, value in found]

    def confusion(self) -> tuple["np.ndarray", list[str]]:
        """The confusion matrix of the test, over the videos with a label.

        Returns:
            Counts (K, K) by true class (row) and predicted class (column), or (K, K + 1) where videos failed, which the
            last column counts; and the names of the K classes that occur, in label order.

        Raises:
            UserError: the run is not tested, or its videos have several labels.
        """
        import numpy as np

        if self.predictions is None:
            raise UserError(f"{self.path}: no confusion matrix before the test, which writes predictions.csv. Test it")
        if self.classes:
            raise UserError(f"{self.path}: no confusion matrix where videos have several labels; see class_scores.csv")
        labelled = [p for p in self.predictions if p.labels]
        predicted = {p.prediction for p in labelled if p.prediction is not None}
        labels = sorted({p.labels[0] for p in labelled} | predicted)
        place = {label: i for i, label in enumerate(labels)}
        counts = np.zeros((len(labels), len(labels) + any(p.prediction is None for p in labelled)), np.int64)
        for p in labelled:
            counts[place[p.labels[0]], place.get(p.prediction, -1)] += 1
        return counts, [self.names.get(label, str(label)) for label in labels]

    def plot_confusion(self) -> "Figure":
        """`confusion` as a Matplotlib figure, coloured by the share of the true class."""
        from slowfast_uniformer.runs.figures import draw_confusion

        return draw_confusion(*self.confusion())

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


def read_run(path: str | os.PathLike) -> RunFolder:
    """Read a run's folder, also that of a run in progress.

    Args:
        path: its OUTPUT_DIR.

    Raises:
        UserError: it is no run's folder, or a file in it is damaged, naming file and line.
    """
    path = os.fspath(path)
    metrics, starts, predictions, class_scores = (
        os.path.join(path, name) for name in ("metrics.jsonl", "starts.jsonl", "predictions.csv", "class_scores.csv")
    )
    if found_folds := fold_runs(path):
        several = counted(len(found_folds), "fold")
        raise UserError(
            f"{path}: not a run's folder; it holds the runs of {several}. Name one, such as {found_folds[0]}"
        )
    if not os.path.isfile(metrics):
        raise UserError(
            f"{path}: no metrics.jsonl, so this is not a run's folder, or the run has recorded nothing yet. Name the "
            "OUTPUT_DIR of a run"
        )
    rows = read_json_lines(metrics)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("split"), str) or not is_number(row.get("step")):
            raise UserError(f"{metrics}, line {number}: no step or no split in this row. Remove the line")
    tested = os.path.isfile(predictions)
    found, classes = read_predictions(predictions) if tested else (None, [])
    begun = read_json_lines(starts) if os.path.isfile(starts) else []
    scores = read_class_scores(class_scores) if os.path.isfile(class_scores) else []
    return RunFolder(path, rows, begun, run_config(path), found, classes, read_class_balance(path), scores)


def epochs_done(row: Row) -> float | None:
    """Epochs done when a row of metrics.jsonl was written; None if it does not say."""
    number, done, steps = (row.get(key) for key in ("epoch", "iter", "iters"))
    if not is_number(number):
        return None
    return number - 1 + done / steps if is_number(done) and is_number(steps) and steps else float(number)


def is_number(value: Any) -> bool:
    """Whether a value of a row can be drawn."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def run_config(path: str) -> dict[str, Any]:
    """The resolved config of a run's folder by dotted key, which has another name where config.yaml was the user's own
    file; {} without one."""
    files = [os.path.join(path, name) for name in ("config_resolved.yaml", "config.yaml")]
    file = next(filter(os.path.isfile, files), None)
    if file is None:
        return {}
    return dict(flatten(read_yaml(file).content))
