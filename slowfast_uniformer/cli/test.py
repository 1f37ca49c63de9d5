"""Test a trained model: every view of every video in the test list.

    uniformer test --cfg k400/uniformer_s --checkpoint runs/k400_s OUTPUT_DIR runs/k400_s_test

Of a run's folder the best checkpoint is tested, or else the latest. Without --checkpoint it is the latest one in
OUTPUT_DIR, or with TEST.TEST_BEST the best.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer.cli.common import parse_arguments
from slowfast_uniformer.cli.train import run_parser, start


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = run_parser("test", __doc__)
    help_text = "a checkpoint, a run's folder, weights, or the name of published ones (TEST.CHECKPOINT_FILE_PATH)"
    parser.add_argument("--checkpoint", metavar="FILE|RUN", help=help_text)
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    overrides = ["TRAIN.ENABLE", False, "TEST.ENABLE", True]
    if args.checkpoint:
        overrides += ["TEST.CHECKPOINT_FILE_PATH", args.checkpoint]
    start(args, overrides)
