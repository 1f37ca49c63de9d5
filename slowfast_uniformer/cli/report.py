"""Write an HTML report on one run, or on several side by side.

    uniformer report runs/demo
    uniformer report runs/demo runs/other --output compared.html
    uniformer report runs/folds

The page is a single self-contained file with curves, classes, mistakes, config, speed and cost. It can be written while
the run is in progress. Of several runs it says, and prints, whether each differs from the first by more than chance, on
the test videos that both have. The OUTPUT_DIR of `uniformer train --folds`, given alone, stands for all of its folds.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import new_parser, parse_arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", type=paths.expand, metavar="RUN", help="folder of a run (its OUTPUT_DIR)")
    help_text = "file to write (default: report.html in the first RUN)"
    parser.add_argument("--output", type=paths.expand, metavar="FILE.html", help=help_text)
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.analysis.report import report

    lines: list[str] = []
    print(report(args.runs, args.output, lines))
    for line in lines:
        print(line)
