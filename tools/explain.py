r"""Show where in a video a model looks.

    python tools/explain.py --checkpoint runs/demo VIDEO|FOLDER|LIST [...] --output FOLDER
    python tools/explain.py --checkpoint runs/demo clip.mp4 --output maps --class left --stage 2

writes of each video an overlay (.mp4), a heat map on its frames, and a contact sheet (.png) with the maps of
all stages: Grad-CAM of stages of convolutions, attention of those that attend (docs/explain.md). Of a long
video the clip in the middle is looked at, or the one around --at. A video that cannot be read is named, the
others are explained, and the exit status is 2.
"""

import argparse
import os
import sys

from common import finish, model_parser, parse, the_model

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.explain import contact_sheet, explain, label_of, write_overlay, write_picture
from slowfast_uniformer.inference.inputs import find_videos
from slowfast_uniformer.inference.saliency import METHODS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = model_parser(__doc__)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--class",
        dest="label",
        metavar="NAME|LABEL",
        help="what to explain by Grad-CAM (the most probable); attention knows no class",
    )
    parser.add_argument("--stage", help="whose map the overlay shows; the contact sheet names all")
    parser.add_argument("--method", choices=METHODS, default="auto", help="%(default)s: by the kind of stage")
    parser.add_argument("--at", type=float, metavar="SECONDS", help="the middle of the clip (the video's)")
    parser.add_argument("--tensorboard", metavar="FOLDER", help="write the contact sheets there, too")
    return parse(parser, argv)


def main() -> int:
    args = parse_args()
    model = the_model(args)
    label = None if args.label is None else label_of(args.label, model.names)
    samples, failed = find_videos(args.videos, model.cfg), False
    paths = [sample.path for sample in samples]
    overlays, sheets = (video_writer.targets(args.output, paths, ending) for ending in (".mp4", ".png"))
    board = _board(args.tensorboard) if args.tensorboard else None
    for sample, overlay, picture in zip(samples, overlays, sheets, strict=True):
        try:
            found = explain(model, sample, label, args.method, args.at)
            write_overlay(model, found, overlay, args.stage)
            sheet = contact_sheet(found)
            write_picture(sheet, picture)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        name, probability = found.shown
        print(f"{sample.path}: {name} ({probability:.1%}), {overlay}, {picture}", flush=True)
        if board:
            board.add_image(f"explain/{os.path.basename(picture)}", sheet, dataformats="HWC")
    if board:
        board.close()
    return 2 if failed else 0


def _board(folder: str):
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(folder)
    except OSError as error:
        raise UserError(f"--tensorboard {folder}: cannot write there: {error.strerror}") from None


if __name__ == "__main__":
    finish(main)
