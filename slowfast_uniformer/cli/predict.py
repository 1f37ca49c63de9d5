r"""Predict the classes of videos.

    uniformer predict --checkpoint runs/demo data/demo/videos/left
    uniformer predict --checkpoint runs/demo my_videos --csv > classes.csv
    uniformer predict --checkpoint runs/demo talk.mp4 --picture talk.png \
        --overlay talk_named.mp4
    uniformer predict --checkpoint runs/demo talk.mp4 --window 2 --stride 1 \
        --annotations events.csv

Each video is predicted from several views, as in testing (TEST.NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS). A video longer
than --longer-than is predicted by sliding windows, which give a timeline; --picture and --annotations do this for all
videos. A list whose header names start and end (in seconds) is of segments, each predicted from views inside it.

--annotations scores the timelines against events: a table with the columns video, start, end (in seconds) and label.
The scores are frame-wise accuracy, segment F1, and mAP at temporal IoU.

If a video cannot be read, the others are predicted, and the exit status is 2.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from slowfast_uniformer import paths, terminal
from slowfast_uniformer.cli.common import (
    load_predictor,
    model_parser,
    parse_model_arguments,
    positive,
    print_errors,
    table,
)
from slowfast_uniformer.data.event_files import Event, read_events
from slowfast_uniformer.errors import UserError

if TYPE_CHECKING:
    from slowfast_uniformer.data.annotations import Sample

SHOWN = 5  # rows of annotations that are left out


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("predict", __doc__)
    output = parser.add_argument_group("output")
    add = output.add_argument
    help_text = "number of most probable classes to print"
    add("--topk", type=positive(int), default=5, metavar="N", help=help_text)
    either = output.add_mutually_exclusive_group()
    either.add_argument("--json", action="store_true", help="print JSON: a list with an object per video")
    either.add_argument("--csv", action="store_true", help="print CSV: a row per video, without timelines")
    help_text = "write the videos with their classes drawn on them"
    add("--overlay", type=paths.expand, metavar="OUT.mp4|FOLDER", help=help_text)
    add("--picture", type=paths.expand, metavar="OUT.png|FOLDER", help="write the timelines as pictures")
    help_text = "DataLoader workers; 0 reads videos in this process"
    add("--workers", type=int, default=0, metavar="N", help=help_text)
    add = parser.add_argument_group("timelines").add_argument
    help_text = "give videos longer than this a timeline"
    add("--longer-than", type=float, default=30.0, metavar="SECONDS", help=help_text)
    add("--window", type=positive(float), metavar="SECONDS", help="length of a window (default: that of a clip)")
    help_text = "time from one window to the next (default: half a window)"
    add("--stride", "--step", dest="step", type=positive(float), metavar="SECONDS", help=help_text)
    help_text = "average the probabilities over this time (default: not at all)"
    add("--smooth", type=positive(float), default=0.0, metavar="SECONDS", help=help_text)
    help_text = "average by mean or median"
    add("--smooth-by", choices=("mean", "median"), default="mean", metavar="HOW", help=help_text)
    help_text = "join segments shorter than this to their neighbours (default: none)"
    add("--min-length", type=positive(float), default=0.0, metavar="SECONDS", help=help_text)
    add = parser.add_argument_group("scores of timelines").add_argument
    help_text = "score the timelines against the events of this file; repeatable"
    add("--annotations", action="append", type=paths.expand, default=[], metavar="EVENTS.csv", help=help_text)
    help_text = "class that stands for no event (default: background, if the model has it)"
    add("--background", default="", metavar="CLASS", help=help_text)
    add("--scores", type=paths.expand, metavar="OUT.json", help="write the scores to this file, too")
    args = parse_model_arguments(parser, argv)
    if not args.annotations and (args.scores or args.background):
        parser.error("--scores and --background need --annotations")
    return args


def predictions(
    args: argparse.Namespace, model: Any, samples: Sequence["Sample"], errors: list[str], evaluation: Any = None
) -> Iterator[dict[str, Any]]:
    """Yield the row of each video by a `Predictor`, and write its picture and overlay; what fails goes to `errors`.

    Timelines also go to an `evaluation` (`timeline_scores.Evaluation`).
    """
    from slowfast_uniformer.inference.outputs import output_files
    from slowfast_uniformer.inference.predict import draw_timeline, predict, write_overlay
    from slowfast_uniformer.runs.log import progress

    paths = [sample.path for sample in samples]
    overlays = output_files(args.overlay, paths, ".mp4") if args.overlay else None
    pictures = output_files(args.picture, paths, ".png") if args.picture else None
    longer_than = 0.0 if pictures or evaluation else args.longer_than
    options = {"smooth": args.smooth, "smooth_by": args.smooth_by, "min_length": args.min_length}
    options |= {"window": args.window, "step": args.step}
    found = predict(model, samples, args.topk, longer_than, args.workers, **options)
    found = progress(found, len(samples), "predict", "video", bar=args.json or args.csv)
    for number, prediction in enumerate(found):
        row = prediction.row
        events = evaluation.add(prediction) if evaluation and prediction.spans else None
        try:
            if overlays and prediction.probabilities is not None:
                write_overlay(model, samples[number], prediction, overlays[number])
            if pictures and prediction.spans:
                options = {"parts": row["timeline"], "events": events}
                options |= {"background": evaluation.background} if evaluation else {}
                draw_timeline(prediction.spans, model.names, pictures[number], row["video"], **options)
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


def read_annotations(files: Sequence[str]) -> list[Event]:
    """The events of annotation files; rows that are none are named on standard error."""
    left_out: list[str] = []
    events = [event for file in files for event in read_events(file, lambda why, at: left_out.append(f"{at}: {why}"))]
    if not events:
        raise UserError("; ".join([f"{files[0]}: no event with a start, an end and a label", *left_out[:1]]))
    show_warnings([f"left out: {each}" for each in left_out[:SHOWN]])
    show_warnings([f"left out: {len(left_out) - SHOWN} more"] if len(left_out) > SHOWN else [])
    return events


def show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        terminal.show(f"warning: {warning}", error=True)


def print_scores(evaluation: Any, output: str | None, error: bool) -> None:
    """Show the scores of an evaluation, on standard `error` where standard output is data, and write them."""
    from slowfast_uniformer.inference.outputs import atomic_output
    from slowfast_uniformer.inference.timeline_scores import class_rows, scores_json, scores_text

    show_warnings(evaluation.warnings)
    scores, names = evaluation.scores(), evaluation.names
    if output:
        with atomic_output(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(scores_json(scores, names), file, ensure_ascii=False, indent=2)
    text = scores_text(scores, names, evaluation.background)
    terminal.show("\n".join(["", text, "", table(class_rows(scores, names))]), error=error)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    errors: list[str] = []
    events = read_annotations(args.annotations) if args.annotations else []
    model = load_predictor(args)
    from slowfast_uniformer.inference.inputs import find_videos
    from slowfast_uniformer.inference.outputs import checked_output
    from slowfast_uniformer.inference.timeline_scores import Evaluation

    samples, evaluation = find_videos(args.videos, model.cfg, segments=True), None
    if (args.picture or args.annotations) and any(sample.segment for sample in samples):
        option = "--picture" if args.picture else "--annotations"
        raise UserError(f"{option} needs timelines of whole videos, but the list names segments; leave {option} out")
    if args.annotations:
        output = checked_output(args.scores, (".json",)) if args.scores else None
        evaluation = Evaluation([sample.path for sample in samples], events, model.names, args.background)
    args.topk = min(args.topk, len(model.names))
    print_rows(args, predictions(args, model, samples, errors, evaluation))
    if evaluation:
        print_scores(evaluation, output, error=args.json or args.csv)
    return print_errors(errors)
