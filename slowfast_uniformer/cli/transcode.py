"""Rewrite videos so that they decode fast in training.

    uniformer transcode my_videos my_videos_320 --short-side 320
    uniformer transcode lists/train.csv data_320 --prefix my_videos

Writes each video of a list, or of a folder at any depth, as OUT/PATH.mp4: H.264 with short groups of pictures, the
shorter side at most --short-side, upright, square pixels, without sound. Frames and their times stay as they are.
Lists and class names are written to OUT, with the new paths. Videos that cannot be read are named and left out of
them. The same command continues where it was interrupted. docs/transcode.md says when it pays.

Exit status: 0 all videos are written, 2 some could not be.
"""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from slowfast_uniformer import paths, terminal
from slowfast_uniformer.cli.common import new_parser, parse_arguments, positive, print_errors, table
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.annotations import FORMATS
from slowfast_uniformer.data.folders import VIDEO_ENDINGS, ending_of
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.log import Phase, progress
from slowfast_uniformer.wording import counted

KINDS = 4  # codecs that the table names


def even(text: str) -> int:
    if (value := int(text)) < 2 or value % 2:
        raise argparse.ArgumentTypeError(f"{text} is not an even number of pixels, as H.264 needs it")
    return value


def quality(text: str) -> float:
    if not 0 <= (value := float(text)) <= 51:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 (lossless) to 51")
    return value


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("transcode", __doc__, "LIST|FOLDER OUT", takes_config=False)
    add = parser.add_argument
    add("source", type=paths.expand, metavar="LIST|FOLDER", help="list of videos, or folder of videos")
    add("out", type=paths.expand, metavar="OUT", help="folder to write")
    help_text = "shrink larger videos until their shorter side has this length"
    add("--short-side", type=even, default=320, metavar="PIXELS", help=help_text)
    add("--gop", type=positive(int), default=16, metavar="FRAMES", help="frames from one key frame to the next")
    add("--fps", type=positive(float), metavar="RATE", help="frames per second (default: as in each video)")
    help_text = "quality of x264, from 0 (lossless) to 51 (default: 20, or less for a noisy video, to keep 36 dB)"
    add("--crf", type=quality, metavar="QUALITY", help=help_text)
    help_text = "processes that write; 0 writes in this one (default: one per CPU core)"
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help=help_text)
    add = parser.add_argument_group("reading a list").add_argument
    help_text = "folder that paths in LIST are relative to, as DATA.PATH_PREFIX"
    add("--prefix", type=paths.expand, default="", metavar="FOLDER", help=help_text)
    help_text = f"format of LIST, as TEST.DATASET: {', '.join(FORMATS)}"
    add("--dataset", choices=FORMATS, default="kinetics", metavar="FORMAT", help=help_text)
    help_text = "name of an image in a folder of frames, as DATA.IMAGE_TEMPLATE (default: {:05d}.jpg)"
    add("--images", metavar="TEMPLATE", help=help_text)
    return parse_arguments(parser, argv)


def summary(done: Sequence[dict[str, Any]]) -> str:
    """What became of the videos: a table of sizes and of what decoding depends on."""
    sides = [[facts[side] for facts in done] for side in ("before", "after")]
    rows: list[tuple[str, Callable[[list[dict]], str]]] = [
        ("size", lambda facts: megabytes(sum(each["bytes"] for each in facts))),
        ("codec", lambda facts: kinds([each["codec"] for each in facts])),
        ("frames", lambda facts: f"{sum(each['frames'] for each in facts):,}"),
        ("short side (median)", lambda facts: f"{median(min(each['width'], each['height']) for each in facts):g}"),
        ("fps (median)", lambda facts: f"{median(each['fps'] for each in facts):.4g}"),
        ("frames to a key frame (mean)", key_distance),
    ]
    return table([["", "before", "after"], *([name, *map(show, sides)] for name, show in rows)])


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def kinds(codecs: Sequence[str]) -> str:
    counts = Counter(codecs).most_common()
    shown = [name if len(counts) == 1 else f"{name} {count:,}" for name, count in counts[:KINDS]]
    return ", ".join([*shown, "..."] if len(counts) > KINDS else shown)


def key_distance(facts: Sequence[dict[str, Any]]) -> str:
    known = [each for each in facts if each["keys"]]
    return (
        f"{sum(each['frames'] for each in known) / sum(each['keys'] for each in known):.1f}" if known else "not known"
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if not os.path.exists(args.source):
        raise UserError(f"{args.source}: no such list or folder")
    if os.path.isfile(args.source) and ending_of(args.source) in VIDEO_ENDINGS:
        raise UserError(f"{args.source}: seems to be a video; give a list of videos, or a folder of them")
    if os.path.realpath(args.source) == os.path.realpath(args.out):
        raise UserError(f"{args.out} is the folder of the videos; name another folder to write to")
    keys = ["TEST.DATASET", args.dataset, *(["DATA.IMAGE_TEMPLATE", args.images] if args.images else [])]
    is_folder = os.path.isdir(args.source)
    prefix = args.source if is_folder else args.prefix
    cfg = load_config(None, ["DATA.PATH_PREFIX", prefix, *keys], runs_here=False)
    from slowfast_uniformer.data import transcode
    from slowfast_uniformer.data.encode import Settings

    beside = args.source if is_folder else os.path.dirname(args.source)
    with Phase(f"look for videos in {args.source}"):
        if is_folder:
            found = [os.path.join(args.source, name) for name in transcode.LISTS]
            lists = {path: transcode.read_list(path, cfg) for path in found if os.path.isfile(path)}
            samples = transcode.find_videos(args.source, args.out, cfg.DATA.IMAGE_TEMPLATE)
            named = [(sample, os.path.relpath(sample.path, args.source)) for sample in samples]
        else:
            lists = {args.source: transcode.read_list(args.source, cfg)}
            named = [
                (line.sample, transcode.relative_name(line.name, prefix)) for line in lists[args.source] if line.sample
            ]
        settings = Settings(args.short_side, args.gop, args.fps, args.crf)
        jobs = transcode.make_jobs(named, args.out, settings, cfg.DATA.IMAGE_TEMPLATE)
        journal = transcode.read_journal(args.out)
        facts = {job: journal[job.target]["facts"] for job in jobs if transcode.is_done(job, journal)}
    left = [job for job in jobs if job not in facts]
    if before := len(jobs) - len(left):
        print(f"{before:,} of {counted(len(jobs), 'video')} were written before")
    try:
        for job, found in progress(transcode.transcode(left, max(0, args.workers)), len(left), "transcode", "video"):
            facts[job] = found
    except KeyboardInterrupt:
        terminal.show("interrupted; run the same command again to continue", error=True)
        return 130
    errors = [facts[job]["error"] for job in jobs if "error" in facts[job]]
    done = {job: facts[job] for job in jobs if "error" not in facts[job]}
    targets = {os.path.abspath(job.path): job.target for job in done}
    if done:
        print(summary(list(done.values())))
        transcode.copy_class_files(beside, args.out)
        written = {path: transcode.write_list(path, lines, targets, args.out) for path, lines in lists.items()}
        print(f"{args.out}: {counted(len(done), 'video')} written")
        for path, count in written.items():
            print(f"{os.path.join(args.out, os.path.basename(path))}: {counted(count, 'video')}")
        if written:
            print("\nTo train on these lists, set")
            print(f"DATA.PATH_TO_DATA_DIR {args.out}\nDATA.PATH_PREFIX {args.out}")
    if errors:
        terminal.show(f"{len(errors):,} of {counted(len(jobs), 'video')} could not be written:", error=True)
    return print_errors(errors)
