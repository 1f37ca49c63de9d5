r"""Show where in a video a model looks.

    uniformer explain --checkpoint runs/demo clip.mp4 --output maps
    uniformer explain --checkpoint runs/demo clip.mp4 --output maps \
        --class left --stage 2

Writes an overlay (.mp4, a heat map on the frames) and a contact sheet (.png, the maps of all stages) for each video:
Grad-CAM of convolutional stages, attention of stages with attention. docs/explain.md has the details.

If a video cannot be read, the others are explained, and the exit status is 2.
"""

import argparse
import os
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import load_predictor, model_parser, parse_model_arguments, print_errors
from slowfast_uniformer.errors import UserError, os_errors_reported

METHODS = ("auto", "gradcam", "attention")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("explain", __doc__)
    add = parser.add_argument
    add("--output", required=True, type=paths.expand, metavar="FOLDER", help="folder to write")
    add("--tensorboard", type=paths.expand, metavar="FOLDER", help="write the contact sheets to TensorBoard, too")
    help_text = "explain this class by Grad-CAM (default: the most probable one); attention is the same for all classes"
    add("--class", dest="label", metavar="NAME|LABEL", help=help_text)
    help_text = (
        "overlay the map of this stage (default: the last, or all attention combined); the contact sheet names all"
    )
    add("--stage", metavar="NAME", help=help_text)
    help_text = "gradcam, attention, or auto: what suits the stage"
    add("--method", choices=METHODS, default="auto", metavar="METHOD", help=help_text)
    help_text = "explain the clip around this time (default: the middle of the video)"
    add("--at", type=float, metavar="SECONDS", help=help_text)
    return parse_model_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from slowfast_uniformer.inference.explain import contact_sheet, explain, label_of, write_overlay, write_picture
    from slowfast_uniformer.inference.inputs import find_videos
    from slowfast_uniformer.inference.outputs import is_file_name, output_files
    from slowfast_uniformer.runs.log import progress

    if is_file_name(args.output):
        raise UserError(
            f"--output {args.output}: a folder is needed, since a video and a picture are written for each input"
        )
    model = load_predictor(args)
    label = None if args.label is None else label_of(args.label, model.names)
    samples, errors = find_videos(args.videos, model.cfg), []
    paths = [sample.path for sample in samples]
    overlays, sheets = (output_files(args.output, paths, ending) for ending in (".mp4", ".png"))
    board = None
    if args.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        with os_errors_reported(f"--tensorboard {args.tensorboard}: cannot write there"):
            board = SummaryWriter(args.tensorboard)
    jobs = zip(samples, overlays, sheets, strict=True)
    for sample, overlay, picture in progress(jobs, len(samples), "explain", "video", bar=False):
        try:
            found = explain(model, sample, label, args.method, args.at)
            write_overlay(model, found, overlay, args.stage)
            sheet = contact_sheet(found)
            write_picture(sheet, picture)
        except UserError as error:
            errors.append(str(error))
            continue
        name, probability = found.explained
        print(f"{sample.path}: {name} ({probability:.1%}), {overlay}, {picture}", flush=True)
        if board:
            tag = os.path.basename(picture).encode(errors="backslashreplace").decode()  # a name may be no UTF-8
            board.add_image(f"visualization/explain/{tag}", sheet, dataformats="HWC")
    if board:
        board.close()
    return print_errors(errors)
