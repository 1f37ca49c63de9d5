r"""Extract the features of videos: the input of the model's classifier.

    uniformer features --checkpoint runs/demo my_videos \
        --output features.safetensors
    uniformer features --checkpoint runs/demo long.mp4 --window 2 --stride 1 \
        --output features.parquet
    torchrun --nproc_per_node 2 -m slowfast_uniformer features \
        --checkpoint runs/demo my_videos --output features.safetensors

Writes one row per video, in the order given: the mean over its views (TEST.NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS), or
with --per-frame an array of shape (T', C). With --window or --stride it writes one row per sliding window, with its
start and end. After an interruption the same command continues, with any number of processes, and gives the same
numbers.

A video that cannot be read has a row without features, and the exit status is 2.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import load_arguments, model_parser, parse_model_arguments, positive


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("features", __doc__)
    add = parser.add_argument
    help_text = "file to write; its ending chooses the format"
    add("--output", required=True, type=paths.expand, metavar="OUT.safetensors|OUT.parquet", help=help_text)
    add("--per-frame", action="store_true", help="keep the time axis instead of the mean over time")
    help_text = "write a row per sliding window of this length (default: that of a clip, if --stride is given)"
    add("--window", type=positive(float), metavar="SECONDS", help=help_text)
    help_text = "time from one window to the next (default: half a window)"
    add("--stride", "--step", type=positive(float), metavar="SECONDS", help=help_text)
    help_text = "DataLoader workers of each process; for windows on a GPU, videos read at a time"
    add("--workers", type=int, default=2, metavar="N", help=help_text)
    help_text = "address of machine 0, as tcp://HOST:PORT, if NUM_SHARDS is above 1"
    add("--init_method", default="", metavar="URL", help=help_text)
    args = parse_model_arguments(parser, argv)
    if args.workers < 0:
        parser.error(f"--workers: {args.workers} must be 0 or more")
    args.windows = (args.window, args.stride) if args.window or args.stride else None
    if args.windows and args.per_frame:
        parser.error("--per-frame cannot be combined with --window or --stride: leave one out")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.distributed.launch import launch
    from slowfast_uniformer.inference.features import ENDINGS, extract
    from slowfast_uniformer.inference.outputs import checked_output
    from slowfast_uniformer.inference.predictor import config_of

    output, load = checked_output(args.output, ENDINGS), load_arguments(args)
    options = {"output": output, "per_frame": args.per_frame, "workers": args.workers}
    options["windows"] = args.windows
    launch(partial(extract, load=load, videos=args.videos, **options), config_of(**load), args.init_method)
