"""Accuracy that is no better than chance: one line on what it is most likely due to."""

import logging
import math
import os
from collections.abc import Sequence

import numpy as np
from fvcore.common.config import CfgNode

from slowfast_uniformer.engine.scores import FAILED, Outcome
from slowfast_uniformer.runs.checkpoints import checkpoint_dir
from slowfast_uniformer.runs.files import read_json_lines
from slowfast_uniformer.runs.recorder import Recorder
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)
MIN_STEPS = 30  # a run of fewer is likely to be at chance, and nothing is wrong with it
LEVEL = 0.05  # of the tests below
ABOVE, BELOW = 1.2, 0.75  # times the loss of a guess: an epoch's mean loss that is clearly above or below it
FEW_GROUPS = 20  # of fewer, an order that fits may be one that fits these groups alone
FEW_CLASSES = 3  # one of their 2 or 6 orders is easily right for half of the videos: it takes more to be believed
_SHOWN = 3  # classes that a note names
_PAGE = "See docs/faq.md, 'Accuracy is 1/N'"


def log_chance_note(
    recorder: Recorder,
    title: str,
    cfg: CfgNode,
    outcome: Outcome,
    names: Sequence[str] | None,
    steps: int | None,
    tested: str | None = None,
) -> str:
    """Log `chance_note` of an evaluation, and return it; "" with fewer than MIN_STEPS. A fault of it is a warning.

    Args:
        recorder: The run's.
        title: The evaluation's, before the note.
        cfg: The run's config.
        outcome: See `chance_note`.
        names: See `chance_note`.
        steps: Optimizer steps that the weights were trained for, None if not known.
        tested: See `training_losses`.
    """
    note = ""
    if steps is None or steps >= MIN_STEPS:
        with recorder.optional("the note on chance"):
            if note := chance_note(outcome, names, training_losses(cfg, tested)):
                logger.warning("%s: %s", title, note)
    return note


def chance_note(outcome: Outcome, names: Sequence[str] | None, losses: Sequence[float] = ()) -> str:
    """What to look at where top-1 accuracy is at chance.

    By chance is what independent predictions and labels with the same counts of classes would give: the sum over
    classes of the share of labels times the share of predictions. Accuracy is at chance if an exact binomial test does
    not find it above that, and if its upper bound (Clopper-Pearson) is nearer to chance than to 100 %, which few videos
    never show.

    Args:
        outcome: Of a validation or test; videos that failed are left out.
        names: Class names in label order, or None.
        losses: Mean training loss of each epoch (`training_losses`), which tells causes apart; () if not known.

    Returns:
        A sentence that goes on after a name of the evaluation and a colon; "" where accuracy is above chance, or too
        few videos can tell.
    """
    if outcome.multi_label:
        return ""
    known = outcome.predicted != FAILED
    truth, predicted = outcome.truth[known], outcome.predicted[known]
    if len(np.unique(truth)) < 2:
        return ""
    videos, right = len(truth), int((truth == predicted).sum())
    labels, numbers = np.unique([truth, predicted], return_inverse=True)  # the classes that occur, renumbered from 0
    named = [names[label] if names else f"class {label}" for label in labels]
    (rows, columns), size = numbers.reshape(2, videos), len(labels)
    matrix = np.bincount(rows * size + columns, minlength=size**2).reshape(size, size)
    accuracy = f"top-1 is {100 * right / videos:.2f} % of {counted(videos, 'video')}"
    groups = None if outcome.groups is None else len(np.unique(outcome.groups[known]))
    if order := _another_order(matrix) if groups is None or groups >= FEW_GROUPS else []:
        moved = [row for row in np.flatnonzero(matrix.sum(1)) if order[row] != row]
        pairs = ", of ".join(f"{named[row]} as {named[order[row]]}" for row in moved[:_SHOWN])
        more = " and so on" if len(moved) > _SHOWN else ""
        return (
            f"{accuracy}, but would be {100 * matrix[range(size), order].sum() / videos:.2f} % with the classes in "
            f"another order: most videos of {pairs}{more} are predicted. This list most likely numbers the classes in "
            f"another order than the list that the model was trained on: `uniformer check` names what to correct. "
            f"{_PAGE}"
        )
    chance = float(matrix.sum(0) @ matrix.sum(1)) / videos**2
    if not _at_chance(right, videos, chance):
        return ""
    only = np.flatnonzero(matrix.sum(0))
    same = f", and all are predicted as {named[only[0]]}" if len(only) == 1 else ""
    return (
        f"{accuracy}, no better than chance ({100 * chance:.2f} %){same}. "
        f"{_likely_cause(losses, math.log(outcome.num_classes))}. {_PAGE}"
    )


def training_losses(cfg: CfgNode, tested: str | None = None) -> list[float]:
    """Mean training loss of each epoch, from OUTPUT_DIR/metrics.jsonl.

    Args:
        cfg: The run's config.
        tested: The checkpoint that is tested, None for the run's own weights.

    Returns:
        [] where the losses say nothing: the checkpoint is none of OUTPUT_DIR/checkpoints, or the loss cannot be
        compared with that of a guess, as classes are weighted or it is a focal one.
    """
    own = os.path.join(os.path.realpath(checkpoint_dir(cfg.OUTPUT_DIR)), "")
    if tested is not None and not os.path.realpath(tested).startswith(own):
        return []
    path = os.path.join(cfg.OUTPUT_DIR, "metrics.jsonl")
    if cfg.SOLVER.FOCAL_GAMMA or cfg.SOLVER.CLASS_WEIGHTS != "none" or not os.path.isfile(path):
        return []
    losses = [row.get("loss") for row in read_json_lines(path) if row.get("split") == "train_epoch"]
    return [loss for loss in losses if loss is not None]


def _likely_cause(losses: Sequence[float], guess: float) -> str:
    """What the training losses say, beside the loss of a guess (ln N); the first cause is the likeliest."""
    preview = "`uniformer check --preview 16` draws clips with their classes"
    if not losses:
        return f"Likely causes: wrong labels ({preview}), an unsuitable learning rate, too few steps"
    if losses[-1] < BELOW * guess:
        return (
            f"The training loss fell to {losses[-1]:.2f}, below that of a guess ({guess:.2f}): the labels of this list "
            f"are likely to be wrong ({preview}), or the model has overfitted the training videos"
        )
    if max(losses) > ABOVE * guess:
        return (
            f"The mean training loss of an epoch was up to {max(losses):.2f}, above that of a guess ({guess:.2f}): the "
            "learning rate is too high. Begin a new run in another OUTPUT_DIR, with a SOLVER.BASE_LR ten to a hundred "
            "times lower (at most 1e-3 is usual for AdamW) and SOLVER.CLIP_GRADIENT 5"
        )
    return (
        f"The training loss stayed near that of a guess ({guess:.2f}). Likely causes: a learning rate that is too low, "
        f"too few steps, wrong labels ({preview}), frozen layers"
    )


def _at_chance(right: int, videos: int, chance: float) -> bool:
    from scipy.stats import binomtest  # a second to import

    test = binomtest(right, videos, chance, alternative="greater")
    below = binomtest(right, videos, chance, alternative="less")  # one-sided: its interval has the upper bound
    return test.pvalue > LEVEL and below.proportion_ci(1 - LEVEL).high < (1 + chance) / 2


def _another_order(matrix: np.ndarray) -> list[int]:
    """The column (predicted class) that stands for each row (class), where another order of classes explains it.

    That is the assignment with the most videos right. It must be right for half of them (80 % with 2 or 3 classes) and
    for twice as many as the labels are, and significant by a binomial test for all orders together (Bonferroni).

    Returns:
        A column for each row; [] where no other order is meant.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    videos, (_, order) = int(matrix.sum()), linear_sum_assignment(matrix, maximize=True)
    hits = int(matrix[range(len(matrix)), order].sum())
    share = 0.8 if len(matrix) <= FEW_CLASSES else 0.5
    if hits < max(share * videos, 2 * matrix.trace()):
        return []
    most = float(np.sort(matrix.sum(0)) @ np.sort(matrix.sum(1))) / videos**2  # by chance, whatever the order
    orders = math.lgamma(len(matrix) + 1)
    return order.tolist() if binom.logsf(hits - 1, videos, most) + orders < math.log(LEVEL) else []
