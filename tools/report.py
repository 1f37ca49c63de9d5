"""Write a page on a run, or on several side by side: curves, classes, mistakes, config, speed and cost.

python tools/report.py runs/demo [RUN ...] [--output FILE.html]

The page is one file that needs nothing besides. It can be written while the run is in progress.
"""

import argparse
import sys

from slowfast_uniformer.apps.report import report
from slowfast_uniformer.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an HTML page on one run or several.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder (OUTPUT_DIR)")
    parser.add_argument("--output", metavar="FILE.html", help="the page (report.html in the first RUN)")
    args = parser.parse_args()
    try:
        print(report(args.runs, args.output))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
