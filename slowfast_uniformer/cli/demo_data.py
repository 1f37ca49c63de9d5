"""Render the demo data set: short videos of a shape that moves in one of eight ways.

    uniformer demo-data

`uniformer train --cfg demo/uniformer` trains on it.
"""

import argparse
import os
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import new_parser, parse_arguments
from slowfast_uniformer.errors import os_errors_reported
from slowfast_uniformer.wording import counted


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("demo-data", __doc__)
    parser.add_argument("--out", default="data/demo", type=paths.expand, help="folder to write (%(default)s)")
    parser.add_argument("--train", type=int, default=1200, help="training videos (%(default)s)")
    parser.add_argument("--val", type=int, default=240, help="held-out videos (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.datasets.make_demo import make_demo
    from slowfast_uniformer.runs.log import Phase

    with os_errors_reported(f"--out {args.out}: cannot write the data set"), Phase("render the videos"):
        rendered = make_demo(args.out, args.train, args.val, args.seed, workers=args.workers)
    print(f"{args.out}: {counted(args.train + args.val, 'video')} {'rendered' if rendered else 'are there already'}")
