r"""Export a trained model to ONNX or torch.export.

    uniformer export --checkpoint runs/demo --format onnx \
        --output runs/demo/model.onnx
    uniformer export --checkpoint runs/demo --format torch_export \
        --output runs/demo/model.pt2 --check my_videos

The file runs without this package: with onnxruntime, or with PyTorch alone, for any batch size. Its metadata holds
the classes and the preprocessing. It is written only if its logits agree with PyTorch's to 1e-4 of the largest logit,
on all views of the videos after --check, or else on noise.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import load_predictor, model_parser, parse_model_arguments
from slowfast_uniformer.wording import counted

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("export", __doc__, videos=False)
    add = parser.add_argument
    add("--format", required=True, choices=FORMATS, metavar="FORMAT", help="onnx or torch_export")
    help_text = "file to write: .onnx or .pt2, as --format"
    add("--output", required=True, type=paths.expand, metavar="OUT.onnx|OUT.pt2", help=help_text)
    help_text = "compare with PyTorch on these videos, folders or lists (default: on noise)"
    add("--check", nargs="+", default=[], type=paths.expand, metavar="VIDEO", help=help_text)
    return parse_model_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.inference.export import export
    from slowfast_uniformer.inference.inputs import find_videos
    from slowfast_uniformer.inference.outputs import checked_output

    output = checked_output(args.output, [FORMATS[args.format]])
    model = load_predictor(args, "NUM_GPUS", 0, "TRAIN.MIXED_PRECISION", "none")
    videos = find_videos(args.check, model.cfg)
    found = export(model, args.format, output, videos)
    opset = f" (opset {found.opset})" if found.opset else ""
    data = f"{counted(found.clips, 'clip')} of {counted(len(videos), 'video') if videos else 'noise'}"
    print(f"{output}: {args.format}{opset}, {found.size / 1e6:.1f} MB, {counted(len(model.names), 'class')}")
    print(f"largest deviation from PyTorch {found.deviation:.1e} of the largest logit, on {data}")
