"""Render the demo data set: short videos of a shape that moves in one of eight ways.

    uniformer demo-data

`uniformer train --cfg demo/uniformer` trains on it.
"""

import argparse
import os
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import new_parser, parse_arguments, positive
from slowfast_uniformer.errors import os_errors_reported
from slowfast_uniformer.wording import counted


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("demo-data", __doc__)
    add = parser.add_argument
    add("--out", default="data/demo", type=paths.expand, metavar="FOLDER", help="folder to write")
    add("--train", type=positive(int), default=1200, metavar="N", help="number of training videos")
    add("--val", type=positive(int), default=240, metavar="N", help="number of validation videos")
    add("--seed", type=int, default=0, metavar="N", help="random seed")
    help_text = "processes that render (default: one per CPU core)"
    add("--workers", type=positive(int), default=os.cpu_count() or 1, metavar="N", help=help_text)
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.datasets.make_demo import make_demo
    from slowfast_uniformer.runs.log import Phase

    with os_errors_reported(f"--out {args.out}: cannot write the data set"), Phase("render the videos"):
        rendered = make_demo(args.out, args.train, args.val, args.seed, workers=args.workers)
    print(f"{args.out}: {counted(args.train + args.val, 'video')} {'rendered' if rendered else 'are there already'}")
    keys = "" if args.out == "data/demo" else f" DATA.PATH_TO_DATA_DIR {args.out} DATA.PATH_PREFIX {args.out}/videos"
    print(f"Next: uniformer train --cfg demo/uniformer{keys}")
