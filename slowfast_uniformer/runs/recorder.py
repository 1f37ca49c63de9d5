"""A run's metrics: metrics.jsonl, log lines, TensorBoard and a tracker, all from one `Recorder.write`.

metrics.jsonl in OUTPUT_DIR is the record: one JSON object a line with `step`, `split` (a key of `LINES`) and
metrics; a value that is not finite is null there. The others show the same values, and their faults do not end a run.
"""

import errno
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_write
from slowfast_uniformer.runs import figures, trackers
from slowfast_uniformer.runs.files import Row, append_json_lines, read_json_lines
from slowfast_uniformer.runs.log import EPOCH_LINE
from slowfast_uniformer.runs.tensorboard import (
    PICTURES,
    code,
    continued_folder,
    hparams_row,
    results_text,
    run_folder,
    scalars,
    start_text,
    validation_text,
)

logger = logging.getLogger(__name__)
# The log line of each split: how it begins, and the columns it shows. The other columns are in metrics.jsonl.
LINES = {
    "train_iter": ("epoch {epoch} [{iter}/{iters}]", "loss top1_acc lr clips_per_second eta_seconds"),
    "train_epoch": ("epoch {epoch} mean", "loss top1_acc grad_norm clips_per_second"),
    "val_epoch": ("epoch {epoch} val", "loss top1_acc top5_acc mean_class_acc macro_f1 map coverage"),
    "test_final": ("test", "top1_acc top5_acc mean_class_acc macro_f1 map ece coverage"),
}
EPOCH_COLUMNS = "loss top1_acc map"  # of the short line of an epoch
SHORT_NAMES = {
    "top1_acc": "top1",
    "top5_acc": "top5",
    "map": "mAP",
    "clips_per_second": "clips/s",
    "eta_seconds": "eta",
}
_warned: set[tuple[str, str]] = set()  # (OUTPUT_DIR, what failed): training and test warn once together


def _to_json(value: Any) -> Any:
    """Scalars of torch and numpy as Python's, None for what is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _readable(key: str, value: Any) -> str:
    """A number to 4 digits, a time as h:mm:ss."""
    if value is None:
        return "not finite"
    if key == "eta_seconds":
        return str(timedelta(seconds=round(value)))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def log_line(row: Row, columns: str = "") -> str:
    """The log line of a row of metrics.jsonl, such as "epoch 2 [40/75]  loss 2.346  top1 31.25  lr 0.0004".

    Args:
        row: the row.
        columns: what to show; by default the columns of `LINES`.
    """
    place, usual = LINES[row["split"]]
    names = (columns or usual).split()
    shown = [f"{SHORT_NAMES.get(key, key)} {_readable(key, row[key])}" for key in names if key in row]
    return "  ".join([place.format_map(row), *shown])


class Recorder:
    """Writes a run's metrics and pictures on rank 0, and nothing on other ranks.

    Args:
        output_dir: the run's folder.
        tensorboard: whether to write to OUTPUT_DIR/tensorboard (see runs/tensorboard.py).
        rank: this process's.
        tracker: "wandb", "mlflow" or "".
    """

    def __init__(self, output_dir: str, tensorboard: bool, rank: int, tracker: str = ""):
        self.output_dir = output_dir
        self.path = os.path.join(output_dir, "metrics.jsonl")
        self.folder = run_folder(output_dir)
        self.main = rank == 0
        self.tensorboard = tensorboard and self.main
        self._tracker = trackers.Tracker(tracker if self.main else "", output_dir)
        self._writer: Any = None
        self._unwritten: list[Row] = []  # rows that found no disk space
        self._purge_step: int | None = None
        self._folder_failed = False

    def write(self, step: int, metrics: Row) -> None:
        """Record metrics after optimizer step `step`.

        Args:
            step: optimizer steps done.
            metrics: `split`, then numbers or strings in the order of the row.

        Raises:
            UserError: metrics.jsonl cannot be written, for another reason than a full disk.
        """
        if not self.main:
            return
        row = {"step": step, **{key: _to_json(value) for key, value in metrics.items()}}
        self._record(row)
        short = log_line(row, EPOCH_COLUMNS) if row["split"] in ("train_epoch", "val_epoch") else ""
        logger.info("%s", log_line(row), extra={EPOCH_LINE: short})
        drawn = scalars(row)
        if row["split"] == "test_final":
            if self.tensorboard:
                with self.optional("the table of the test"):
                    self.text("results/test", results_text(row), step)
        else:
            for tag, value in drawn.items():
                self._draw("add_scalar", tag, math.nan if value is None else value, step)
        self._draw("flush")
        finite = {tag: value for tag, value in drawn.items() if value is not None}
        with self.optional("the tracker"):
            self._tracker.write({"step": step, "figures": finite})

    def _record(self, *rows: Row) -> None:
        """Append rows to metrics.jsonl, after those that a full disk has kept from it before."""
        self._unwritten += rows
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            append_json_lines(self.path, *self._unwritten)
            self._unwritten = []
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"OUTPUT_DIR: cannot write {self.path}: {error.strerror}") from None
            if len(self._unwritten) == len(rows):  # the first that waits
                logger.warning(
                    "no disk space for %s: its rows are kept in memory and written when there is space", self.path
                )

    def resume(self, step: int, epochs: int) -> None:
        """Remove rows of training after `step` and of validation after `epochs` epochs: a run that continues there
        writes them again."""
        if not self.main:
            return
        self.close()
        _warned.difference_update([key for key in _warned if key[0] == self.output_dir])
        trackers.failed.discard(self.output_dir)
        self._purge_step = step + 1
        if os.path.isfile(self.path):
            with open(self.path, encoding="utf-8") as file:
                kept = [line for line in file if _is_kept(line, step, epochs)]
            atomic_write(self.path, "".join(kept))

    @contextmanager
    def optional(self, what: str) -> Iterator[None]:
        """A block without which the run goes on, whatever it raises. The first fault of each `what` is a warning."""
        try:
            yield
        except (KeyboardInterrupt, signals.Interrupted):
            raise
        except BaseException as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            self._warn(
                what,
                f"{what} cannot be written ({cause}); the run goes on, and later errors of this kind are not reported",
            )

    def _warn(self, what: str, message: str) -> None:
        if self.main and (self.output_dir, what) not in _warned:
            _warned.add((self.output_dir, what))
            logger.warning("%s", message)

    # --------------------------------------------------------------------------------------- TensorBoard
    def _summary_writer(self) -> Any:
        """The SummaryWriter, made at its first use; None without TensorBoard."""
        if self.tensorboard and self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except Exception as error:  # versions that do not fit together raise others than ImportError
                remedy = "install tensorboard, or set TENSORBOARD.ENABLE False"
                self._warn("TensorBoard", f"TensorBoard cannot be imported ({error}): {remedy}")
                self.tensorboard = False
                return None
            _silence_writer_threads()
            self.folder = continued_folder(self.output_dir)
            self._writer = SummaryWriter(self.folder, purge_step=self._purge_step)
            self._purge_step = None  # a writer after this one, where this one fails, hides nothing
        return self._writer

    def _draw(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of the SummaryWriter, or of an attribute of it. While the folder cannot be written nothing is
        drawn; later calls begin a new file."""
        if self._unwritten or not self.tensorboard:
            return
        with self.optional("TensorBoard"):
            try:
                if self._folder_failed:
                    _probe(self.folder)
                self._folder_failed = False
                if writer := self._summary_writer():
                    attrgetter(method)(writer)(*arguments, **options)
            except OSError:
                self._writer, self._folder_failed = None, True
                raise

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Show Markdown in the Text tab. It sorts tags: `results/...`, then `run/...`, then `settings/...`."""
        self._draw("flush")  # the first time it makes the writer, or says that there is no TensorBoard
        if not self.tensorboard:
            return
        with self.optional("TensorBoard"):
            from tensorboard.plugins.text.summary_v2 import text_pb

            # Without torch's add_text, which appends "/text_summary" to each tag
            self._draw("file_writer.add_summary", text_pb(tag, markdown), step)

    def config(self, cfg: CfgNode, step: int = 0) -> None:
        """Show the resolved config and the run's start, and list the run in TensorBoard's table of runs."""
        with self.optional("the tracker"):
            self._tracker.write({"config": dict(flatten(cfg))})
        self.text("settings/config", code(cfg.dump(), "yaml"), step)
        if not self.tensorboard:  # also where it is not installed
            return
        with self.optional("TensorBoard"):
            from torch.utils.tensorboard.summary import hparams

            # Without torch's summary of an experiment, which would give all runs the columns of the first
            self._draw("file_writer.add_summary", hparams(hparams_row(cfg), {})[1])
        starts = os.path.join(self.output_dir, "starts.jsonl")
        with self.optional("the run's start"):
            for row in read_json_lines(starts)[-1:] if os.path.exists(starts) else ():
                self.text("run/start", start_text(row), step)

    def validation_summary(self, column: str, step: int) -> None:
        """Show the best and the last validation as a table.

        Args:
            column: of metrics.jsonl, by which the best is chosen.
            step: optimizer steps done.
        """
        if not self.tensorboard or not os.path.exists(self.path):  # a full disk may have kept it from being written
            return
        with self.optional("the table of the validation"):
            rows = [row for row in read_json_lines(self.path) if row["split"] == "val_epoch"]
            if rows:
                self.text("results/validation", validation_text(rows, column), step)

    def confusion(self, section: str, matrix: np.ndarray, names: figures.Names, step: int) -> None:
        """Draw a confusion matrix of counts.

        Args:
            section: val or test.
            matrix: (K, K) by true class (row) and predicted class (column), or (K, K + 1) with a column of videos that
                failed.
            names: K class names in label order, or None.
            step: optimizer steps done.
        """
        with self.optional("the confusion matrix"):
            self._image(f"{section}_confusion", figures.pixels(figures.draw_confusion(matrix, names)), step)

    def per_class(self, section: str, accuracy: np.ndarray, names: figures.Names, step: int) -> None:
        """Draw the accuracies (K,) of classes in per cent; nan is left out."""
        with self.optional("the per-class accuracy"):
            self._image(f"{section}_per_class", figures.pixels(figures.draw_per_class(accuracy, names)), step)

    def pr_curve(self, section: str, name: str, truth: np.ndarray, probability: np.ndarray, step: int) -> None:
        """Draw the precision-recall curve of a class: (V,) bool, whether it is a label of each video, and (V,)
        probabilities, 0 for videos that failed."""
        shown = " ".join(name.split())[:100]
        self._draw("add_pr_curve", f"{section}/{shown}", truth, probability, step)

    def clips(self, section: str, clips: Sequence, predictions: figures.Predictions, step: int) -> None:
        """Draw uint8 clips (T, H, W, 3), and above each (true class, predicted class, probability of that)."""
        with self.optional("the clips"):
            self._image(f"{section}_clips", figures.draw_clips(clips, predictions), step)

    def _image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Draw (H, W, 3) uint8."""
        self._draw("add_image", f"{PICTURES}/{name}", picture, step, dataformats="HWC")

    def embedding(self, section: str, features: Any, names: Sequence[str], pictures: Any, step: int) -> None:
        """Show features (N, C) of clips in the projector, with class names and pictures (N, 3, H, W), 0 to 1."""
        rows = [" ".join(name.split()) for name in names]  # a line each
        self._draw("add_embedding", features, rows, pictures, step, section)

    def close(self) -> None:
        """Write what is left, and end the tracker's process."""
        if self._unwritten:
            self._record()
        if self._writer is not None:
            self._draw("close")
            self._writer = None
        with self.optional("the tracker"):
            self._tracker.close()


def _is_kept(line: str, step: int, epochs: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:  # the end of a run that was killed while it wrote
        return False
    if row["split"] == "val_epoch":
        return row["epoch"] <= epochs
    return row["step"] <= step or row["split"] == "test_final"


def _probe(folder: str) -> None:
    """Raise OSError where a file in `folder` cannot be written."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f".{os.getpid()}.probe")
    try:
        with open(path, "wb") as file:
            file.write(bytes(1 << 16))
    finally:
        with suppress(OSError):
            os.remove(path)


@lru_cache
def _silence_writer_threads() -> None:
    """Print no traceback of TensorBoard's writing threads: their faults are raised again by the next call."""
    show = threading.excepthook

    def hook(fault: threading.ExceptHookArgs) -> None:
        if not type(fault.thread).__module__.startswith("tensorboard."):
            show(fault)

    threading.excepthook = hook
