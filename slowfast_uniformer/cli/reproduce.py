"""Test released checkpoints and compare with the published figures.

    uniformer reproduce k400/uniformer_s sthv2/uniformer_s_f16_k400
    uniformer reproduce "k400/*" NUM_GPUS 1

Each recipe is tested in runs/reproduce/RECIPE; OUTPUT_DIR replaces runs/reproduce. KEY VALUE pairs override the configs
of all recipes. Missing weights are downloaded. The same command continues: what has been tested with the same settings
and lists is not tested again. The exit status is 0 if all were tested, else 2.
"""

import argparse
import fnmatch
import os
import re
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import KEY, new_parser, parse_arguments, print_errors, table
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.recipes import list_recipes, recipe_name
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.published import cells, other_views, published_figures, views
from slowfast_uniformer.engine.reproduce import ROOT, Outcome, find_released, output_dir, reproduce, shortened
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights.registry import Checkpoint, released_checkpoint
from slowfast_uniformer.wording import counted

_QUOTES = "Put a pattern in quotes, as 'k400/*', or the shell replaces it by the names of files"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("reproduce", __doc__, "RECIPE [RECIPE ...] [KEY VALUE ...]")
    help_text = "recipe names (`uniformer config` lists them), YAML files, or quoted patterns such as 'k400/*'"
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help=help_text)
    args = parse_arguments(parser, argv)
    words = args.recipes
    end = next((n for n, word in enumerate(words) if re.fullmatch(KEY, word)), len(words))
    args.recipes, args.opts = words[:end], words[end:]
    if not args.recipes:
        parser.error("name a recipe, such as k400/uniformer_s, before the KEY VALUE pairs")
    return args


def chosen(words: Sequence[str]) -> dict[str, Checkpoint]:
    """The recipes that names, files and patterns mean, with their released checkpoints, each once.

    Of several words, as a shell makes them of a pattern, those without a released checkpoint are left out.

    Raises:
        UserError: a word is no recipe, or no recipe with a released checkpoint is left.
    """
    names: list[str] = []
    for word in words:
        if any(mark in word for mark in "*?["):
            pattern = word.removeprefix("configs/").removesuffix(".yaml")
            names += [name for name in fnmatch.filter(list_recipes(), pattern) if released_checkpoint(name)]
        elif len(words) == 1:
            return dict([find_released(word)])
        else:
            names += [name for name in [_recipe(word)] if name and released_checkpoint(name)]
    names.sort(key=lambda name: name.endswith("_1gpu"))  # the same checkpoint: only where the recipe is not named
    found: dict[str, Checkpoint] = {}
    for name in names:
        if (checkpoint := released_checkpoint(name)) not in found.values():
            found[name] = checkpoint
    if not found:
        raise UserError(
            f"{' '.join(words)}: no recipe with a released checkpoint; `uniformer weights list` shows these. {_QUOTES}"
        )
    return found


def _recipe(word: str) -> str | None:
    try:
        return recipe_name(word)
    except UserError as error:
        raise UserError(f"{error}. {_QUOTES}" if os.path.exists(word) else str(error)) from None


def configs(recipes: dict[str, Checkpoint], opts: Sequence[str]) -> tuple[dict[str, CfgNode], dict[str, list[str]]]:
    """The config that tests each recipe's released checkpoint, and notes on it."""
    root = dict(zip(opts[::2], opts[1::2], strict=False)).get("OUTPUT_DIR", ROOT)
    found, notes = {}, {}
    for name, checkpoint in recipes.items():
        notes[name] = []
        own = {"TRAIN.ENABLE": False, "TEST.ENABLE": True, "TEST.CHECKPOINT_FILE_PATH": checkpoint.name}
        own["OUTPUT_DIR"] = output_dir(name, root)
        found[name] = load_config(name, [*opts, *(word for pair in own.items() for word in pair)], notes[name])
    return found, notes


def check_alone(cfg: CfgNode) -> None:
    """Refuse to be one of several processes: tests follow each other, and one process decides which.

    Raises:
        UserError: says how it is started.
    """
    task = topology.slurm_task() or {"WORLD_SIZE": 1}
    if topology.has_rank_env() or task["WORLD_SIZE"] > 1 or cfg.NUM_SHARDS > 1:
        raise UserError(
            "uniformer reproduce starts one process per GPU (NUM_GPUS) itself, on one machine: run it without "
            "torchrun, srun and NUM_SHARDS. Under these, run `uniformer test --released`"
        )


def result_table(outcomes: Sequence[Outcome]) -> str:
    """A line for each recipe: published and measured figures, and what is to be said of them."""
    header = "recipe views videos top-1 published difference top-5 published difference".split()
    rows, remarks = [header], [""]
    for outcome in outcomes:
        row = outcome.row or published_figures(outcome.checkpoint)
        figures = [cells(row, key) for key in ("top1", "top5")]
        columns = [cell for published, measured, difference in figures for cell in (measured, published, difference)]
        videos = f"{row['num_videos']:,}" if outcome.row else "-"
        rows.append([outcome.recipe, views(outcome.cfg), videos, *columns])
        remarks.append(remark(outcome))
    lines = table(rows).splitlines()
    return "\n".join(f"{line}  {text}".rstrip() for line, text in zip(lines, remarks, strict=True))


def remark(outcome: Outcome) -> str:
    """What the table says of a recipe besides its figures."""
    if outcome.row is None:
        return f"not tested: {shortened(outcome.error)}"
    parts = [other_views(outcome.row, outcome.cfg)]
    parts += ["doubtful: see below"] if "doubt" in outcome.row else []
    parts += [f"{outcome.row['coverage']:.2f} % of the videos predicted"] if outcome.row["coverage"] < 100 else []
    parts += ["tested before"] if outcome.earlier else []
    return "; ".join(filter(None, parts))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    recipes = chosen(args.recipes)
    loaded, notes = configs(recipes, args.opts)
    check_alone(next(iter(loaded.values())))
    outcomes = list(reproduce({name: (recipes[name], cfg) for name, cfg in loaded.items()}, notes))
    terminal.show(f"\n{result_table(outcomes)}")
    for outcome in outcomes:
        if outcome.row and "doubt" in outcome.row:
            terminal.show(f"warning: {outcome.recipe}: {outcome.row['doubt']}", error=True)
    failed = [outcome for outcome in outcomes if outcome.row is None]
    if failed:
        terminal.show(f"{counted(len(failed), 'recipe')} of {len(outcomes)} not tested", error=True)
    return print_errors(list(dict.fromkeys(outcome.error for outcome in failed)))
