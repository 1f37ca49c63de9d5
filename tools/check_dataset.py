"""Check the lists of a config and every video in them before training.

python tools/check_dataset.py --cfg configs/k400/uniformer_s.yaml [--splits train val] [KEY VALUE ...]

Says what is wrong with lines, cannot be read, is short or unlike the rest, comes twice, or is in training and
in testing. What was found is in check_dataset.csv of OUTPUT_DIR; training passes over what bad_files.txt
there names. Run again, it reads only files that are new. Exit status: 0 if nothing must be mended, 1 if
something must, 2 if the config or a list cannot be used.
"""

import argparse
import itertools
import os
import sys
from collections import Counter

from common import finish

from slowfast_uniformer.analysis.dataset_check import FAULTS, NOTES, Report, check
from slowfast_uniformer.config.load import load_config, split_cfg_arguments

SPLITS = ("train", "val", "test")
SHOWN = 5  # findings of a kind that are printed; all are in the file


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files and `opts` the KEY VALUE pairs that follow them."""
    parser = argparse.ArgumentParser(
        description="Check lists and read every video in them.",
        usage="%(prog)s [options] --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]",
    )
    parser.add_argument("--cfg", nargs="+", required=True, help="config files, later ones winning")
    parser.add_argument("--splits", nargs="+", default=SPLITS, help=f"of {', '.join(SPLITS)} (all)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="reading processes; 0: this one (%(default)s)"
    )
    parser.add_argument("--fast", action="store_true", help="decode DATA.NUM_FRAMES of each video, not all")
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    splits = list(itertools.takewhile(lambda text: text in SPLITS, args.splits))
    if not splits:
        parser.error(f"--splits: {args.splits[0]!r} is not one of {', '.join(SPLITS)}")
    args.cfg, args.opts = split_cfg_arguments(args.cfg, [*args.splits[len(splits) :], *args.opts])
    args.splits, args.workers = list(dict.fromkeys(splits)), max(0, args.workers)
    return args


def summary(report: Report, output_dir: str) -> str:
    """What was found, for people."""
    lines = [f"{report.files:,} files, {report.read:,} of them read now, the others before"]
    for split, counts in report.classes.items():
        there = [count for count in counts if count]
        sizes = f", each with {min(there):,} to {max(there):,} videos" if there else ""
        lines.append(f"{split}: {sum(counts):,} labels of {len(there)} of {len(counts)} classes{sizes}")
    kinds = Counter(finding.finding for finding in report.findings)
    for kind in (kind for kind in FAULTS + NOTES if kinds[kind]):
        lines.append(f"{kind}: {kinds[kind]:,}" + ("" if kind in FAULTS else " (for your information)"))
        found = [finding for finding in report.findings if finding.finding == kind]
        for finding in found[:SHOWN]:
            place = f"{finding.split} line {finding.line}" if finding.line else f"{finding.split} list"
            lines.append(f"  {place}: {finding.path}: {finding.detail}")
        lines += [f"  and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
    lines += [] if report.findings else ["nothing found"]
    names = ("check_dataset.csv", "bad_files.txt")
    return "\n".join([*lines, *(f"  {os.path.join(output_dir, name)}" for name in names)])


def main() -> int:
    args = parse_args()
    cfg = load_config(args.cfg, args.opts, runs_here=False)
    try:
        report = check(cfg, args.splits, args.workers, args.fast)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(summary(report, cfg.OUTPUT_DIR))
    return int(any(finding.finding in FAULTS for finding in report.findings))


if __name__ == "__main__":
    finish(main)
