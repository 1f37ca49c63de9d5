r"""Write the features of videos: what a model's classifier reads, for what you build on it.

    python tools/features.py --checkpoint runs/demo VIDEO|FOLDER|LIST [...] --output OUT.safetensors
    torchrun --nproc_per_node 2 tools/features.py --checkpoint runs/demo VIDEO [...] --output OUT.parquet

A row a video, in the order given: the mean over its views (TEST.NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS), or
with --per-frame (T', C) of each. Interrupted at any time, the same command continues, with any number of
processes, and gives the same numbers. A video that cannot be read is named, has a row without features, and
the exit status is 2.
"""

import argparse
from functools import partial

from common import finish, model_parser, parse

from slowfast_uniformer.distributed import launch
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.features import ENDINGS, extract
from slowfast_uniformer.inference.predictor import config_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = model_parser(__doc__)
    parser.add_argument("--output", required=True, metavar="OUT.safetensors|OUT.parquet")
    parser.add_argument("--per-frame", action="store_true", help="features before the mean over time")
    parser.add_argument("--workers", type=int, default=2, help="reading processes of each device (%(default)s)")
    parser.add_argument("--init_method", default="", help="tcp://HOST:PORT of machine 0 (NUM_SHARDS, SHARD_ID)")
    args = parse(parser, argv)
    if args.workers < 0:
        parser.error("--workers: 0 or more")
    return args


def main() -> None:
    args = parse_args()
    output = video_writer.checked_output(args.output, ENDINGS)
    load = (args.checkpoint, args.cfg, args.overrides)
    work = partial(
        extract, load=load, videos=args.videos, output=output, per_frame=args.per_frame, workers=args.workers
    )
    launch.launch(work, config_of(*load), args.init_method)


if __name__ == "__main__":
    finish(main)
