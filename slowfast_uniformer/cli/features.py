"""Extract the features of videos: the input of the model's classifier.

    uniformer features --checkpoint runs/demo VIDEO|FOLDER|LIST [...] --output OUT.safetensors
    torchrun --nproc_per_node 2 -m slowfast_uniformer features --checkpoint runs/demo VIDEO [...] --output OUT.parquet
    uniformer features --checkpoint runs/demo LONG.mp4 --window 2 --stride 1 --output OUT.safetensors

One row per video, in the order given: the mean over its views (TEST.NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS), or with
--per-frame (T', C). With --window or --stride one row per sliding window, with its start and end. After an interruption
the same command continues, with any number of processes, and gives the same numbers. A video that cannot be read has a
row without features, and the exit status is 2.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import load_arguments, model_parser, parse_model_arguments, positive


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("features", __doc__)
    parser.add_argument("--output", required=True, type=paths.expand, metavar="OUT.safetensors|OUT.parquet")
    parser.add_argument("--per-frame", action="store_true", help="features before the mean over time")
    add = parser.add_argument
    add("--window", type=positive(float), metavar="SECONDS", help="rows of sliding windows (a clip's length)")
    add("--stride", "--step", type=positive(float), metavar="SECONDS", help="between windows (half a window)")
    help_text = "DataLoader workers of each process; on a GPU, videos read at a time for windows (%(default)s)"
    parser.add_argument("--workers", type=int, default=2, help=help_text)
    parser.add_argument("--init_method", default="", help="tcp://HOST:PORT of machine 0 (NUM_SHARDS, SHARD_ID)")
    args = parse_model_arguments(parser, argv)
    if args.workers < 0:
        parser.error("--workers: 0 or more")
    args.windows = (args.window, args.stride) if args.window or args.stride else None
    if args.windows and args.per_frame:
        parser.error("--per-frame is of whole videos: it does not go with --window and --stride")
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
