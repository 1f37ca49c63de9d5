r"""Test a trained model on every view of every video in the test list.

    uniformer test --cfg k400/uniformer_s --checkpoint runs/k400_s \
        OUTPUT_DIR runs/k400_s_test
    uniformer test --cfg k400/uniformer_s --released

A run's folder means the checkpoint that the run's own test takes: the latest, or the best where its config.yaml sets
TEST.TEST_BEST. RUN/checkpoints/best.pyth names another. Without --checkpoint it is that of OUTPUT_DIR.

--released downloads and tests the published checkpoint of the recipe, and prints published and measured figures side by
side.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer.cli.common import parse_arguments
from slowfast_uniformer.cli.train import run_parser, start


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = run_parser("test", __doc__)
    help_text = (
        "trained model: a run's folder, a checkpoint, or a name or recipe of `uniformer weights list` (default: "
        "TEST.CHECKPOINT_FILE_PATH, or the latest in OUTPUT_DIR)"
    )
    parser.add_argument("--checkpoint", metavar="MODEL", help=help_text)
    help_text = "test the published checkpoint of the recipe; OUTPUT_DIR is runs/reproduce/RECIPE unless you set it"
    parser.add_argument("--released", action="store_true", help=help_text)
    args = parse_arguments(parser, argv)
    if args.released and (args.checkpoint or args.small):
        parser.error(
            f"--released cannot be combined with {'--checkpoint' if args.checkpoint else '--small'}: leave one out"
        )
    return args


def released_overrides(configs: Sequence[str], opts: Sequence[Any]) -> list[Any]:
    """The overrides that test the released checkpoint of the recipe which is the first of the configs."""
    from slowfast_uniformer.config.load import load_config, load_recipe
    from slowfast_uniformer.engine.reproduce import check_released, find_released, output_dir

    recipe, checkpoint = find_released(configs[0])
    check_released(checkpoint)
    overrides = ["TEST.CHECKPOINT_FILE_PATH", checkpoint.name]
    cfg = load_config(configs, opts, runs_here=False)
    if "OUTPUT_DIR" in opts[::2] or cfg.OUTPUT_DIR != load_recipe(configs[0]).OUTPUT_DIR:
        return overrides
    return [*overrides, "OUTPUT_DIR", output_dir(recipe)]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    overrides = ["TRAIN.ENABLE", False, "TEST.ENABLE", True]
    if args.checkpoint:
        overrides += ["TEST.CHECKPOINT_FILE_PATH", args.checkpoint]
    if args.released:
        overrides += released_overrides(args.cfg, args.opts)
    start(args, overrides)
