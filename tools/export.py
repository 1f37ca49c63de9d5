r"""Write a trained model as a program that runs without this package.

    python tools/export.py --checkpoint runs/demo --format onnx --output runs/demo/model.onnx
    python tools/export.py --checkpoint runs/demo --format torch_export --output runs/demo/model.pt2 \
        --check VIDEO|FOLDER|LIST [...]

ONNX runs with onnxruntime, torch_export with torch alone; for any number of clips at once. Classes and how a
clip is made of a video are in the file's metadata. It is written when its logits agree with PyTorch's to 1e-4
of the largest, on all views of the videos after --check, or else on noise.
"""

import argparse

from common import finish, model_parser, parse

from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.export import ENDINGS, export
from slowfast_uniformer.inference.inputs import find_videos
from slowfast_uniformer.inference.predictor import load_model


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = model_parser(__doc__, videos=False)
    parser.add_argument("--format", required=True, choices=ENDINGS)
    parser.add_argument("--output", required=True, metavar="OUT.onnx|OUT.pt2")
    parser.add_argument("--check", nargs="+", default=[], metavar="VIDEO", help="videos, folders or lists")
    return parse(parser, argv)


def main() -> None:
    args = parse_args()
    output = video_writer.checked_output(args.output, [ENDINGS[args.format]])
    here = ["NUM_GPUS", 0, "TRAIN.MIXED_PRECISION", "none"]
    model = load_model(args.checkpoint, args.cfg, [*args.overrides, *here])
    videos = find_videos(args.check, model.cfg)
    found = export(model, args.format, output, videos)
    opset = f" (opset {found.opset})" if found.opset else ""
    data = f"{found.clips} clips of {len(videos)} videos" if videos else f"{found.clips} clips of noise"
    print(f"{output}: {args.format}{opset}, {found.size / 1e6:.1f} MB, {len(model.names)} classes")
    print(f"largest deviation from PyTorch {found.deviation:.1e} of the largest logit, on {data}")


if __name__ == "__main__":
    finish(main)
