"""Predict the classes of videos.

    uniformer predict --checkpoint runs/demo VIDEO|FOLDER|LIST [...] [--json | --csv]
    uniformer predict --checkpoint runs/demo talk.mp4 --picture talk.png --overlay talk_named.mp4

Each video is predicted from several views, as in testing (TEST.NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS); one longer than
--longer-than seconds by sliding windows, with a timeline. --overlay writes the videos with their classes drawn on
them, --picture writes the timelines as pictures (then of all videos). A list whose header line names start and end
(seconds) is of segments, each predicted from views inside it. If a video cannot be read, the others are
predicted, and the exit status is 2.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from slowfast_uniformer import paths, terminal
from slowfast_uniformer.cli.common import load_predictor, model_parser, parse_model_arguments, positive, print_errors
from slowfast_uniformer.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("predict", __doc__)
    add = parser.add_argument
    add("--topk", type=positive(int), default=5, help="most probable classes to print (%(default)s, or all there are)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a list of objects")
    output.add_argument("--csv", action="store_true", help="print a table, without timelines")
    add(
        "--overlay",
        type=paths.expand,
        metavar="OUT.mp4|FOLDER",
        help="write the videos with their classes drawn on them",
    )
    add("--picture", type=paths.expand, metavar="OUT.png|FOLDER", help="write timelines as pictures")
    help_text = "length from which a video gets a timeline (%(default)s)"
    add("--longer-than", type=float, default=30.0, metavar="SECONDS", help=help_text)
    add("--window", type=float, metavar="SECONDS", help="of a timeline (a clip's length)")
    add("--step", type=float, metavar="SECONDS", help="between windows (half a window)")
    add("--workers", type=int, default=0, help="DataLoader workers (%(default)s: none, read in this process)")
    return parse_model_arguments(parser, argv)


def predictions(args: argparse.Namespace, model: Any, errors: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the row of each video by a `Predictor`, and write its picture and overlay; what fails goes to `errors`."""
    from slowfast_uniformer.inference.inputs import find_videos
    from slowfast_uniformer.inference.outputs import output_files
    from slowfast_uniformer.inference.predict import draw_timeline, predict, write_overlay
    from slowfast_uniformer.runs.log import progress

    samples = find_videos(args.videos, model.cfg, segments=True)
    if args.picture and any(sample.segment for sample in samples):
        raise UserError("--picture draws timelines of whole videos, and the list names segments; leave it out")
    paths = [sample.path for sample in samples]
    overlays = output_files(args.overlay, paths, ".mp4") if args.overlay else None
    pictures = output_files(args.picture, paths, ".png") if args.picture else None
    longer_than = 0.0 if pictures else args.longer_than
    found = predict(model, samples, args.topk, longer_than, args.workers, window=args.window, step=args.step)
    found = progress(found, len(samples), "predict", "video", bar=args.json or args.csv)
    for number, prediction in enumerate(found):
        row = prediction.row
        try:
            if overlays and prediction.probabilities is not None:
                write_overlay(model, samples[number], prediction, overlays[number])
            if pictures and prediction.spans:
                draw_timeline(prediction.spans, model.names, pictures[number], row["video"])
        except UserError as error:
            row = row | {"error": str(error)}
        if "error" in row:
            errors.append(row["error"])
        yield row


def print_rows(args: argparse.Namespace, rows: Iterator[dict[str, Any]]) -> None:
    """Print rows as JSON, CSV or text, each as soon as it is there."""
    from slowfast_uniformer.inference.predict import as_csv, as_json, as_text, csv_head

    if args.json:
        for piece in as_json(rows, terminal.lacks_letters()):
            print(piece, end="", flush=True)
        print()
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        for number, row in enumerate(rows):
            if number == 0:
                writer.writerow(csv_head(args.topk, "start" in row))
            writer.writerow(as_csv(row, args.topk))
            sys.stdout.flush()
    else:
        for row in rows:
            if row["topk"]:
                print(as_text(row), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    errors: list[str] = []
    model = load_predictor(args)
    args.topk = min(args.topk, len(model.names))
    print_rows(args, predictions(args, model, errors))
    return print_errors(errors)
