"""Train and test from a config.

python tools/run_net.py --cfg configs/k400/uniformer_s.yaml [KEY VALUE ...]
"""

import argparse
from functools import partial

from common import finish

from slowfast_uniformer.config.load import load_config, split_cfg_arguments
from slowfast_uniformer.config.smoke import smoke_overrides
from slowfast_uniformer.distributed import launch
from slowfast_uniformer.engine.job import run_job


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files and `opts` the KEY VALUE pairs that follow them."""
    parser = argparse.ArgumentParser(
        description="Train and test a video classifier from YAML configs.",
        usage="%(prog)s [options] --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]",
    )
    parser.add_argument("--cfg", nargs="+", required=True, help="config files, later ones winning")
    parser.add_argument("--init_method", default="", help="tcp://HOST:PORT of machine 0")
    parser.add_argument("--num_shards", type=int, help="number of machines (NUM_SHARDS)")
    parser.add_argument("--shard_id", type=int, help="number of this machine, from 0 (SHARD_ID)")
    parser.add_argument("--small", action="store_true", help="try the config in seconds: small sizes, no weights")
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cfg, args.opts = split_cfg_arguments(args.cfg, args.opts)
    return args


def main() -> None:
    args = parse_args()
    notes: list[str] = []
    given = [("NUM_SHARDS", args.num_shards), ("SHARD_ID", args.shard_id)]
    shards = [item for pair in given if pair[1] is not None for item in pair]
    overrides = shards + args.opts
    if args.small:
        overrides += smoke_overrides(load_config(args.cfg, overrides, runs_here=False))
    cfg = load_config(args.cfg, overrides, notes)
    launch.launch(partial(run_job, notes=notes, given=args.cfg), cfg, args.init_method)


if __name__ == "__main__":
    finish(main)
