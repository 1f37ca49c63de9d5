"""A run's figures: log lines, metrics.jsonl, TensorBoard and a tracker, all from one `Recorder.write`."""

import errno
import math
import os
from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from typing import Any

import numpy as np
import simplejson as json
from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.config.load import difference
from slowfast_uniformer.engine.metrics import VideoAggregator, confusion_matrix, per_class_accuracy
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.figures import Answers, Names, draw_clips, draw_confusion, draw_per_class
from slowfast_uniformer.runs.files import append_json_lines
from slowfast_uniformer.runs.log import logger
from slowfast_uniformer.runs.trackers import Tracker

# TensorBoard's sections by split; it sorts them by name, so what is watched but not learnt comes last
SECTIONS = {"train_iter": "train", "train_epoch": "train_epoch", "val_epoch": "val", "test_final": "test"}
WATCHED = {"clips_per_second", "data_wait_percent", "memory_mb", "skipped_steps", "bad_videos"}
# Columns of TensorBoard's table of runs, besides what of these sections is not at its default
HPARAMS = (
    "MODEL.MODEL_NAME DATA.NUM_FRAMES DATA.TRAIN_CROP_SIZE TRAIN.BATCH_SIZE SOLVER.OPTIMIZING_METHOD "
    "SOLVER.BASE_LR SOLVER.WEIGHT_DECAY SOLVER.MAX_EPOCH SOLVER.WARMUP_EPOCHS MIXUP.ENABLE AUG.ENABLE "
    "RNG_SEED"
).split()
LEARNT_BY = ("MODEL", "UNIFORMER", "UNIFORMERV2", "SOLVER", "AUG", "MIXUP", "BN")
PR_CLASSES = 20  # curves of precision and recall are drawn of so many classes and no more
NOT_DRAWN = {"step", "split", "epoch", "iter", "iters", "eta_seconds", "num_videos"}


def _to_json(value: Any) -> Any:
    """A figure as JSON knows it: scalars of torch and numpy as Python's, null for what is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _format_figure(key: str, value: Any) -> str:
    if value is None:
        return f"{key} not finite"
    if key == "eta_seconds":
        return f"eta {timedelta(seconds=round(value))}"
    if isinstance(value, float):
        size = abs(value)
        value = f"{value:.0f}" if size >= 1000 or size == 0 else f"{value:{'.4g' if size >= 1e-3 else '.3e'}}"
    return f"{key} {value}"


class Recorder:
    """Writes a run's figures and pictures on rank 0; silent on other ranks."""

    def __init__(self, output_dir: str, tensorboard: bool, rank: int, tracker: str = ""):
        self.path = os.path.join(output_dir, "metrics.jsonl")
        self.folder = os.path.join(output_dir, "tensorboard")
        self.main = rank == 0
        self.tensorboard = tensorboard and self.main
        self._tracker = Tracker(tracker if self.main else "", output_dir)
        self._writer: Any = None
        self._waiting: list[dict[str, Any]] = []  # rows that found no space
        self._purge_step: int | None = None

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """Record figures of optimizer step `step`: `split`, then numbers or text in the order to be shown.
        Raises UserError when metrics.jsonl cannot be written.
        """
        if not self.main:
            return
        row = {"step": step, **{key: _to_json(value) for key, value in figures.items()}}
        self._record(row)
        split = row["split"]
        shown = [_format_figure(key, value) for key, value in row.items() if key != "split"]
        logger.info("%s  %s", split, "  ".join(shown))
        left_out = NOT_DRAWN | (WATCHED | {"lr"} if split == "train_epoch" else set())
        drawn = {
            f"{'watch' if key in WATCHED else SECTIONS[split]}/{key}": value
            for key, value in row.items()
            if key not in left_out and not isinstance(value, str)
        }
        for tag, value in drawn.items():
            self._draw("add_scalar", tag, math.nan if value is None else value, step)
        self._draw("flush")
        finite = {tag: value for tag, value in drawn.items() if value is not None}
        self._tracker.write({"step": step, "figures": finite})

    def _record(self, *rows: dict[str, Any]) -> None:
        """Write rows to metrics.jsonl, with those that a full disk has kept from it before."""
        self._waiting += rows
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            append_json_lines(self.path, *self._waiting)
            self._waiting = []
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"OUTPUT_DIR: cannot write {self.path}: {error.strerror}") from None
            logger.warning("no space for %s: %d rows wait until there is", self.path, len(self._waiting))

    def resume(self, step: int, epochs: int) -> None:
        """Forget training after `step` and validation after so many epochs: a run that continues there
        reports them again."""
        if not self.main:
            return
        self.close()
        self._purge_step = step + 1
        if os.path.isfile(self.path):
            with open(self.path, encoding="utf-8") as file:
                kept = [line for line in file if _is_kept(line, step, epochs)]
            with open(self.path + ".tmp", "w", encoding="utf-8") as file:
                file.writelines(kept)
            os.replace(self.path + ".tmp", self.path)

    def _board(self) -> Any:
        """The SummaryWriter, made at its first use; None without TensorBoard."""
        if self.tensorboard and self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                logger.warning("no TensorBoard: install tensorboard, or set TENSORBOARD.ENABLE False")
                self.tensorboard = False
                return None
            self._writer = SummaryWriter(self.folder, purge_step=self._purge_step)
        return self._writer

    def _draw(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of the SummaryWriter, or of a part of it. Without space nothing is drawn; a new file
        begins when there is."""
        try:
            if not self._waiting and (writer := self._board()):
                attrgetter(method)(writer)(*arguments, **options)
        except OSError as error:
            self._writer = None
            logger.warning("TensorBoard lacks a figure or picture: %s", error)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        self._draw("add_text", tag, markdown, step)

    def config(self, cfg: CfgNode) -> None:
        """Show the resolved config, and the run in the table of hyper-parameters and final accuracies."""
        self._tracker.write({"config": dict(flatten(cfg))})
        self.text("config", f"```yaml\n{cfg.dump()}```")
        if not self.tensorboard or not self._board():
            return
        from torch.utils.tensorboard.summary import hparams

        # Without torch's summary of an experiment, from which all runs would have the columns of the first
        self._draw("file_writer.add_summary", hparams(hyper_parameters(cfg), {})[1])

    def evaluation(self, section: str, scores: VideoAggregator, names: Names, step: int) -> None:
        """Draw precision and recall, if there are few classes; and `confusion` and `per_class`, where a video
        has one label."""
        if not self.tensorboard:
            return
        if scores.scores.shape[1] <= PR_CLASSES:
            self.pr_curves(section, scores, names, step)
        if not scores.multi_label:
            matrix = confusion_matrix(scores.predictions, scores.labels, scores.scores.shape[1])
            self.confusion(section, matrix, names, step)
            self.per_class(section, per_class_accuracy(matrix), names, step)

    def pr_curves(self, section: str, scores: VideoAggregator, names: Names, step: int) -> None:
        """Draw precision over recall of each class that has videos."""
        probabilities = scores.probabilities() * scores.answered[:, None]
        for label, column in enumerate(probabilities.T):
            truth = scores.labels[:, label] > 0 if scores.multi_label else scores.labels == label
            name = f"{label} {names[label]}" if names else str(label)
            if truth.any():
                self._draw("add_pr_curve", f"{section}/{name}", truth.numpy(), column.numpy(), step)

    def embedding(self, section: str, features: Any, names: Sequence[str], pictures: Any, step: int) -> None:
        """Show features (N, C) of clips in the projector, with class names and pictures (N, 3, H, W), 0 to
        1."""
        if self.tensorboard:
            rows = [" ".join(name.split()) for name in names]  # a line each
            self._draw("add_embedding", features, rows, pictures, step, section)

    def confusion(self, section: str, matrix: Any, names: Names, step: int) -> None:
        """Draw a confusion matrix (K, K), or (K, K + 1) with unanswered videos, in `section` (val, test)."""
        if self.tensorboard:
            self._draw("add_figure", f"{section}/confusion", draw_confusion(np.asarray(matrix), names), step)

    def per_class(self, section: str, accuracy: Any, names: Names, step: int) -> None:
        """Draw accuracies (K,) of classes in per cent; nan is left out."""
        if self.tensorboard:
            figure = draw_per_class(np.asarray(accuracy), names)
            self._draw("add_figure", f"{section}/per_class", figure, step)

    def clips(self, section: str, clips: Sequence, answers: Answers, step: int) -> None:
        """Draw uint8 clips (T, H, W, 3) and of each (true class, predicted class, probability of that)."""
        if self.tensorboard:
            self._draw("add_image", f"{section}/clips", draw_clips(clips, answers), step, dataformats="HWC")

    def close(self) -> None:
        if self._waiting:
            self._record()
        if self._writer is not None:
            self._draw("close")
            self._writer = None
        self._tracker.close()


def _is_kept(line: str, step: int, epochs: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:  # the end of a run that was killed while it wrote
        return False
    if row["split"] == "val_epoch":
        return row["epoch"] <= epochs
    return row["step"] <= step or row["split"] == "test_final"


def hyper_parameters(cfg: CfgNode) -> dict[str, float | str]:
    """What TensorBoard's table of runs tells of a config: numbers and texts."""
    other = {key: value for key, value in difference(cfg).items() if key.split(".")[0] in LEARNT_BY}
    values = dict(flatten(cfg))
    shown = {key: values[key] for key in HPARAMS} | other
    return {key: value if type(value) in (int, float) else str(value) for key, value in shown.items()}
