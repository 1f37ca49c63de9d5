"""Tests of the released checkpoints of recipes, one after the other, each in a folder of its own.

Imports no PyTorch: what is missing is reported before that is loaded.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.recipes import recipe_name
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.classes import class_names
from slowfast_uniformer.engine.preflight import check_inputs
from slowfast_uniformer.engine.published import settings
from slowfast_uniformer.errors import LostRankError, UserError
from slowfast_uniformer.runs.files import Row, read_json_lines
from slowfast_uniformer.runs.log import remove_logging, write_line
from slowfast_uniformer.weights.registry import Checkpoint, released_checkpoint
from slowfast_uniformer.weights.resolve import FOLDER, local_file

ROOT = "runs/reproduce"  # OUTPUT_DIR is the recipe's name in it


# ----------------------------------------------------------------------------------------------- what is tested
def output_dir(recipe: str, root: str = ROOT) -> str:
    """The folder in which the released checkpoint of a recipe is tested."""
    return os.path.join(root, recipe)


def find_released(config: str) -> tuple[str, Checkpoint]:
    """The name of a recipe, and the checkpoint that was released for it.

    Args:
        config: a recipe's name or file (see `find_config`).

    Raises:
        UserError: it is no recipe, or nothing was released for it.
    """
    name = recipe_name(config)
    checkpoint = released_checkpoint(name) if name else None
    if checkpoint is None:
        raise UserError(
            f"{config}: no released checkpoint belongs to it; `uniformer weights list` shows the recipes of all. "
            "`uniformer test --checkpoint` tests any weights"
        )
    return name, checkpoint


def check_released(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that was never released as a file, unless it is here, and files that hide it by their name.

    Raises:
        UserError: says what to rename, or where to put the file.
    """
    name = checkpoint.name
    found = local_file(checkpoint)
    if os.path.exists(name) or (found and found.checkpoint is None):
        place = os.path.abspath(name) if os.path.exists(name) else found.path
        raise UserError(f"{place} has the name of released weights, but need not be those. Rename it")
    if not checkpoint.sources and not found:
        raise UserError(
            f"{name}: {checkpoint.note}. If you have its file, name it {name}.pth and put it into the folder that "
            f"{FOLDER} names"
        )


# ------------------------------------------------------------------------------------------------- many recipes
@dataclass(frozen=True)
class Outcome:
    """What became of a recipe.

    Attributes:
        checkpoint: the one that was released for it.
        row: of metrics.jsonl; None where it was not tested.
        error: why it was not tested, or not on enough of the videos; else "".
        earlier: whether the row is of an earlier call.
    """

    recipe: str
    checkpoint: Checkpoint
    cfg: CfgNode
    row: Row | None
    error: str = ""
    earlier: bool = False


def reproduce(
    recipes: Mapping[str, tuple[Checkpoint, CfgNode]], notes: Mapping[str, Sequence[str]]
) -> Iterator[Outcome]:
    """Test the released checkpoints of recipes, each in its OUTPUT_DIR, unless its result is there.

    Args:
        recipes: of each recipe its checkpoint, and a config that tests it.
        notes: of `load_config`, to be logged.

    Raises:
        Interrupted: a signal has ended a test, which the next call repeats.
    """
    for number, (recipe, (checkpoint, cfg)) in enumerate(recipes.items(), 1):
        yield _reproduce(recipe, cfg, checkpoint, notes[recipe], f"{recipe} ({number} of {len(recipes)})")


def _reproduce(recipe: str, cfg: CfgNode, checkpoint: Checkpoint, notes: Sequence[str], title: str) -> Outcome:
    try:
        if row := _recorded(cfg, checkpoint):
            write_line(f"{title}: tested before, in {cfg.OUTPUT_DIR}")
            return Outcome(recipe, checkpoint, cfg, row, earlier=True)
        write_line(f"{title}: test {checkpoint.name}")
        _test(recipe, cfg, checkpoint, notes)
        if (row := _recorded(cfg, checkpoint)) is None:
            raise UserError(f"{cfg.OUTPUT_DIR}: the metrics could not be written; free disk space, and try again")
        return Outcome(recipe, checkpoint, cfg, row)
    except LostRankError:
        raise
    except UserError as error:
        write_line(f"{title}: not tested: {shortened(str(error))}")
        return Outcome(recipe, checkpoint, cfg, None, str(error))


def shortened(message: str) -> str:
    """The first sentence of an error message: what happened, without what to do."""
    return re.split(r"\. (?=[A-Z])|:?\n", message)[0]


def _test(recipe: str, cfg: CfgNode, checkpoint: Checkpoint, notes: Sequence[str]) -> None:
    check_released(checkpoint)
    notes = [*notes, *check_inputs(cfg)]

    from slowfast_uniformer.distributed.launch import launch
    from slowfast_uniformer.engine.job import run_job

    try:
        launch(partial(run_job, notes=notes, config_files=[recipe], logger_name=""), cfg)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's
            raise
        message = f"out of GPU memory; set TEST.BATCH_SIZE to fewer than {cfg.TEST.BATCH_SIZE} clips"
        raise UserError(f"{recipe}: {message}") from None
    finally:
        remove_logging()  # the next recipe's lines are not for this one's log.txt


def _recorded(cfg: CfgNode, checkpoint: Checkpoint) -> Row | None:
    """The row in OUTPUT_DIR of a test with these weights, settings and lists, of enough of the videos; else None."""
    path = os.path.join(cfg.OUTPUT_DIR, "metrics.jsonl")
    rows = read_json_lines(path) if os.path.isfile(path) else []
    row = next((row for row in reversed(rows) if row.get("split") == "test_final"), {})
    if row.get("published") != checkpoint.name or row["coverage"] < cfg.TEST.MIN_COVERAGE:
        return None
    same = row["settings"] == settings(cfg, annotations.load(cfg, "test"), class_names(cfg))
    return row if same else None
