"""Check the lists of a config and all their videos before training.

    uniformer check --cfg custom/own_videos DATA.PATH_TO_DATA_DIR my_lists
    uniformer check --cfg custom/own_videos --splits train --preview 8

Reports malformed lines, segments beyond the end, videos that cannot be read, are short or unlike the others,
duplicates, and videos, or sources of videos, both in training and in testing. OUTPUT_DIR/check_dataset.csv lists the
findings; training skips the files in bad_files.txt there. A second run reads only files that are new. The last lines
say what decoding a training clip takes, and what `uniformer transcode` would save.

Exit status: 0 nothing must be fixed, 1 something must, 2 the config or a list cannot be used.
"""

import argparse
import itertools
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import config_parser, parse_arguments, positive
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.annotations import list_path, load
from slowfast_uniformer.data.batch_size import batch_notes
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.preflight import weights_notes
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import counted

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from slowfast_uniformer.analysis.dataset_check import Finding, Report
    from slowfast_uniformer.analysis.decoding_cost import DecodingCost

SPLITS = ("train", "val", "test")
WORTH_WHILE = 1.5  # times fewer pixels to decode
LONG = 400  # letters; such as 400 classes without videos
SHOWN = 5  # findings of a kind that are printed; all are in the file


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = config_parser("check", __doc__)
    help_text = f"check only these lists, of {', '.join(SPLITS)} (default: all)"
    parser.add_argument("--splits", nargs="+", default=SPLITS, metavar="SPLIT", help=help_text)
    help_text = "draw the first N training clips as the model gets them, with their classes: OUTPUT_DIR/preview_*.png"
    parser.add_argument("--preview", type=positive(int), metavar="N", help=help_text)
    help_text = "decode only DATA.NUM_FRAMES frames of each video instead of all"
    parser.add_argument("--fast", action="store_true", help=help_text)
    help_text = "processes that read videos; 0 reads in this one (default: one per CPU core)"
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help=help_text)
    args = parse_arguments(parser, argv)
    splits = list(itertools.takewhile(lambda text: text in SPLITS, args.splits))
    if not splits:
        parser.error(f"--splits: {args.splits[0]!r} is not one of {', '.join(SPLITS)}")
    args.opts = [*args.splits[len(splits) :], *args.opts]  # KEY VALUE pairs that followed --splits
    args.splits, args.workers = list(dict.fromkeys(splits)), max(0, args.workers)
    return args


def summary(report: "Report", output_dir: str) -> str:
    """The findings, for people."""
    from slowfast_uniformer.analysis.dataset_check import FAULTS, NOTES

    before = report.files - report.read
    read = f", {report.read:,} of them read now, the others before" if report.read else ", all read before"
    read = read if before else ""
    lines = [f"{counted(report.files, 'file')}{read}"]
    for split, counts in report.classes.items():
        present = [count for count in counts if count]
        least, most = min(present, default=0), max(present, default=0)
        sizes = f", each with {f'{least:,} to ' if least < most else ''}{counted(most, 'video')}" if present else ""
        classes = f"{len(present)} of {counted(len(counts), 'class')}"
        lines.append(f"{split}: {counted(sum(counts), 'label')} of {classes}{sizes}")
    for kind in FAULTS + NOTES:
        findings = [finding for finding in report.findings if finding.finding == kind]
        videos: dict[tuple[str, str], list[Finding]] = {}  # a video may be in several lists, and in several lines
        for finding in findings:
            videos.setdefault((finding.path, finding.detail), []).append(finding)
        if videos:
            lines.append(f"{kind}: {len(videos):,}" + (" (to fix)" if kind in FAULTS else " (for your information)"))
        for number, of_video in enumerate(list(videos.values())[:SHOWN]):
            detail = _short(of_video[0], with_remedy=number == 0)
            lines.append(f"  {_places(of_video)}: {of_video[0].path}: {detail}")
        lines += [f"  and {len(videos) - SHOWN:,} more"] if len(videos) > SHOWN else []
    lines += [] if report.findings else ["nothing found"]
    lines += [decoding(report.decoding)] if report.decoding else []
    lines.append(f"all findings: {os.path.join(output_dir, 'check_dataset.csv')}")
    lines.append(f"unreadable videos, which training skips: {os.path.join(output_dir, 'bad_files.txt')}")
    return "\n".join(lines)


def _places(findings: "Sequence[Finding]") -> str:
    """Where a video is, such as "val line 5, test line 5"."""
    places = [f"{each.split} line {each.line}" if each.line else f"{each.split} list" for each in findings]
    more = f" and {len(places) - SHOWN:,} more lines" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more


def _short(finding: "Finding", with_remedy: bool) -> str:
    """The detail of a finding beside its path. The remedy, from the second sentence on, is the same for all of a
    kind."""
    detail = finding.detail
    if with_remedy:
        return detail if len(detail) < LONG else f"{detail[:LONG]} ..."
    return re.split(r"\. (?=[A-Z])", detail)[0][:LONG]


def decoding(cost: "DecodingCost") -> str:
    """What a training clip costs to decode, and whether transcoding the collection would pay."""
    text = (
        f"decoding: a training clip of {cost.wanted / cost.clips:.0f} frames takes "
        f"{cost.decoded / cost.clips:.0f} decoded frames ({cost.in_vain:.0%} of them unused) and "
        f"{1000 * cost.seconds / cost.clips:.0f} ms of CPU time. "
    )
    if cost.gain < WORTH_WHILE:
        return f"{text}`uniformer transcode` would save little"
    return (
        f"{text}After `uniformer transcode` it would take {cost.decoded_after / cost.clips:.0f} frames, with "
        f"{cost.gain:.1f} times fewer pixels in all"
    )


def preview(cfg: "CfgNode", count: int) -> None:
    """Draw training clips; what prevents that does not prevent the check, which names it."""
    from slowfast_uniformer.analysis.preview import write_preview

    try:
        files = write_preview(cfg, count)
    except UserError as error:
        terminal.show(f"warning: {error}", error=True)
        return
    print("training clips as the model gets them" + ("" if cfg.MIXUP.ENABLE else " (MIXUP.ENABLE False)"))
    for path in files:
        print(f"  {path}", flush=True)


def of_batch(cfg: "CfgNode") -> list[str]:
    """Notes on the size of a training batch for this list and the config's GPUs."""
    try:
        videos = len(load(cfg, "train"))
    except UserError:
        return []  # a finding already
    try:
        return list(batch_notes(cfg, topology.planned(cfg), videos))
    except UserError as error:
        return [str(error)]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = load_config(args.cfg, args.opts, runs_here=False)
    from slowfast_uniformer.analysis.dataset_check import FAULTS, check

    if args.preview:
        preview(cfg, args.preview)
    unused = {"val": not cfg.TRAIN.EVAL_PERIOD, "test": not cfg.TEST.ENABLE}
    splits = [s for s in args.splits if not unused.get(s) or os.path.isfile(list_path(cfg, s))]
    try:
        report = check(cfg, splits, args.workers, args.fast)
    except KeyboardInterrupt:
        terminal.show("interrupted; run the same command again to continue", error=True)
        return 130
    print(summary(report, cfg.OUTPUT_DIR))
    for note in [*(of_batch(cfg) if "train" in splits else []), *weights_notes(cfg)]:
        print(f"note: {note}")
    return int(any(finding.finding in FAULTS for finding in report.findings))
