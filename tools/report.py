"""Write a page on a run, or on several side by side: curves, classes, mistakes, config, speed and cost.

python tools/report.py runs/demo [RUN ...] [--output FILE.html]

The page is one file that needs nothing besides. It can be written while the run is in progress.
"""

import argparse

from common import finish

from slowfast_uniformer.analysis.report import report


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write an HTML page on one run or several.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder (OUTPUT_DIR)")
    parser.add_argument("--output", metavar="FILE.html", help="the page (report.html in the first RUN)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    print(report(args.runs, args.output))


if __name__ == "__main__":
    finish(main)
