"""What a run does about unbalanced classes, decided and written down at its start."""

import logging

import numpy as np
import torch
from torch.utils.data import DataLoader

from slowfast_uniformer.data.class_balance import Draws, class_counts, class_weights
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.state import RunState
from slowfast_uniformer.runs.class_balance import (
    FILE,
    ClassBalance,
    remove_class_balance,
    table_lines,
    write_class_balance,
)
from slowfast_uniformer.runs.recorder import Recorder
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)
_NAMED = 5  # classes without training videos that the log names


def balance_classes(run: RunState, loader: DataLoader, recorder: Recorder) -> None:
    """Set `run.class_weights` by SOLVER.CLASS_WEIGHTS, and write what that and DATA.SAMPLER do to each class to the
    log, class_balance.csv and TensorBoard. Nothing is written where both leave classes as they are.

    The weights follow from the config and the train list, so a checkpoint holds none.
    """
    cfg, samples, drawn = run.cfg, loader.dataset.samples, loader.sampler.draws
    counts = class_counts(samples, cfg.MODEL.NUM_CLASSES, loader.dataset.flip_labels)
    weights = class_weights(cfg, counts)
    if weights is not None:
        run.class_weights = torch.tensor(weights, dtype=torch.float32, device=run.device)
    if not topology.is_main():
        return
    if drawn is None and weights is None:
        remove_class_balance(cfg.OUTPUT_DIR)  # of a start with other values
        return
    rows = _rows(run, samples, drawn, weights)
    kind = "a list" if isinstance(cfg.SOLVER.CLASS_WEIGHTS, list) else cfg.SOLVER.CLASS_WEIGHTS
    title = f"classes: DATA.SAMPLER {cfg.DATA.SAMPLER}, SOLVER.CLASS_WEIGHTS {kind}"
    lines = list(table_lines(rows))
    for line in (f"{title}; videos drawn in an epoch, and weight in the loss:", *lines):
        logger.info("%s", line)
    absent = [run.class_name(label) for label in np.flatnonzero(counts == 0)]
    if absent and weights is not None:
        names = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
        verb = "has" if len(absent) == 1 else "have"
        logger.warning(f"{counted(len(absent), 'class')} without training videos {verb} weight 0: {names}")
    if drawn is not None and weights is not None:
        logger.warning("DATA.SAMPLER and SOLVER.CLASS_WEIGHTS both favour rare classes: their effects multiply")
    recorder.text("settings/classes", "\n".join([title, "", "```", *lines, "```"]), run.step)
    with recorder.optional(FILE):
        write_class_balance(cfg.OUTPUT_DIR, rows)


def _rows(run: RunState, samples: SampleList, drawn: Draws | None, weights: np.ndarray | None) -> list[ClassBalance]:
    classes = run.cfg.MODEL.NUM_CLASSES
    labels, videos = samples.label_pairs()
    factors = np.ones(len(samples)) if drawn is None else drawn.factors
    counts = np.bincount(labels, minlength=classes).tolist()
    draws = np.bincount(labels, weights=factors[videos], minlength=classes).tolist()
    weights = [1.0] * classes if weights is None else weights.tolist()
    names = map(run.class_name, range(classes))
    return [ClassBalance(*values) for values in zip(range(classes), names, counts, draws, weights, strict=True)]
