r"""Name what videos show.

    python tools/predict.py --checkpoint runs/demo VIDEO|FOLDER|LIST [...] [--json | --csv]
    python tools/predict.py --checkpoint runs/demo talk.mp4 --picture talk.png --overlay talk_named.mp4

Each video is answered from several views, as in testing (TEST.NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS); one of
more than --longer-than seconds by sliding windows, with a timeline. --overlay writes the videos with their
classes burnt in, --picture the timelines as pictures (of all videos then). A video that cannot be read is
named, the others are answered, and the exit status is 2.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from typing import Any

from common import finish, model_parser, parse, the_model

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.inputs import find_videos
from slowfast_uniformer.inference.predict import (
    VideoPrediction,
    as_csv,
    as_json,
    as_text,
    csv_head,
    draw_timeline,
    overlay,
    predict,
)
from slowfast_uniformer.inference.predictor import Predictor
from slowfast_uniformer.runs.log import progress


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = model_parser(__doc__)
    parser.add_argument("--topk", type=int, default=5, help="classes to name (%(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of objects")
    form.add_argument("--csv", action="store_true", help="print a table, without timelines")
    parser.add_argument("--overlay", metavar="OUT.mp4|FOLDER", help="write the videos with their classes on")
    parser.add_argument("--picture", metavar="OUT.png|FOLDER", help="write timelines as pictures")
    parser.add_argument(
        "--longer-than", type=float, default=30.0, metavar="SECONDS", help="videos that get a timeline (%(default)s)"
    )
    parser.add_argument("--window", type=float, metavar="SECONDS", help="of a timeline (a clip's length)")
    parser.add_argument("--step", type=float, metavar="SECONDS", help="between windows (half of one)")
    parser.add_argument("--workers", type=int, default=0, help="reading processes (%(default)s: this one)")
    args = parse(parser, argv)
    if args.topk < 1:
        parser.error("--topk: 1 or more")
    return args


def answers(args: argparse.Namespace, model: Predictor, failed: list[str]) -> Iterator[dict[str, Any]]:
    """The rows to print, one after another; pictures and overlays are written on the way."""
    samples = find_videos(args.videos, model.cfg)
    paths = [sample.path for sample in samples]
    overlays = video_writer.targets(args.overlay, paths, ".mp4") if args.overlay else None
    pictures = video_writer.targets(args.picture, paths, ".png") if args.picture else None
    longer_than = 0.0 if pictures else args.longer_than
    found = predict(model, samples, args.topk, longer_than, args.window, args.step, args.workers)
    if args.json or args.csv:
        found = progress(found, len(samples), "videos")
    for number, answer in enumerate(found):
        try:
            if overlays and answer.probabilities is not None:
                overlay(model, samples[number], answer, overlays[number])
            if pictures and answer.spans:
                draw_timeline(answer.spans, model.names, pictures[number], answer.row["video"])
        except UserError as error:
            answer = VideoPrediction(answer.row | {"error": str(error)}, None, [])
        if "error" in answer.row:
            failed.append(answer.row["error"])
        yield answer.row


def show(args: argparse.Namespace, rows: Iterator[dict[str, Any]]) -> None:
    if args.json:
        for piece in as_json(rows):
            print(piece, end="", flush=True)
        print()
    elif args.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(csv_head(args.topk))
        for row in rows:
            table.writerow(as_csv(row, args.topk))
    else:
        for row in rows:
            if row["topk"]:
                print(as_text(row), flush=True)


def main() -> int:
    args = parse_args()
    failed: list[str] = []
    show(args, answers(args, the_model(args), failed))
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    finish(main)
