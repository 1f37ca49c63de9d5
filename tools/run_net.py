"""Train and test from a config.

python tools/run_net.py --cfg configs/k400/uniformer_s.yaml [KEY VALUE ...]
"""

import argparse
import logging
import os
from functools import partial
from typing import Any

from common import finish
from fvcore.common.config import CfgNode

from slowfast_uniformer import distributed, provenance
from slowfast_uniformer.apps.small import small
from slowfast_uniformer.config import difference, files_and_overrides, load_config
from slowfast_uniformer.engine.test import test
from slowfast_uniformer.engine.train import train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.log import append, setup_logging


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
    parser.add_argument(
        "--small", action="store_true", help="try the config in seconds: small sizes, no weights"
    )
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cfg, args.opts = files_and_overrides(args.cfg, args.opts)
    return args


def prepare(cfg: CfgNode, notes: list[str], given: list[str]) -> None:
    """Make the run's folder with the resolved config in it, and say what was resolved. A `given` file of that
    name is left as it is: the releases' scripts run in the folder of their config.yaml."""
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if os.path.realpath(path) in map(os.path.realpath, given):
        path = os.path.join(cfg.OUTPUT_DIR, "config_resolved.yaml")
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            file.write(cfg.dump())
        os.replace(path + ".tmp", path)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR: cannot write to {cfg.OUTPUT_DIR} ({error.strerror}); set it to a folder of yours"
        ) from None
    setup_logging(cfg.OUTPUT_DIR)
    logger = logging.getLogger("run_net")
    for note in notes:
        logger.warning("%s", note)
    logger.info("config, where it differs from the defaults:")
    for key, value in difference(cfg).items():
        logger.info("    %s: %s", key, value)


def run(cfg: CfgNode, notes: list[str], given: list[str]) -> None:
    """What every process of the run does."""
    if distributed.is_main():
        prepare(cfg, notes, given)
    setup_logging(cfg.OUTPUT_DIR, distributed.rank())
    facts = provenance.start()
    if distributed.is_main():
        append(os.path.join(cfg.OUTPUT_DIR, "starts.jsonl"), facts)
    if cfg.TRAIN.ENABLE:
        train(cfg)
    figures = test(cfg) if cfg.TEST.ENABLE else {}
    if distributed.is_main():
        summarize(cfg, figures)


def summarize(cfg: CfgNode, figures: dict[str, Any]) -> None:
    """Print the test's figures and where everything is."""
    if figures:
        names = {"top1_acc": "top-1", "top5_acc": "top-5", "mean_class_acc": "mean of classes", "map": "mAP"}
        shown = [f"{name} {figures[key]:.2f} %" for key, name in names.items() if key in figures]
        print(", ".join(shown) or "no labels", end=" ")
        print(f"({figures['num_videos']} videos, {figures['coverage']:.2f} % answered)")
    for name in ("predictions.csv", "submission.csv", "metrics.jsonl", "checkpoints", "tensorboard"):
        if os.path.exists(path := os.path.join(cfg.OUTPUT_DIR, name)):
            print(f"  {path}")
    if cfg.TENSORBOARD.ENABLE:
        print(f"to watch it: tensorboard --logdir {cfg.OUTPUT_DIR}", flush=True)


def main() -> None:
    args = parse_args()
    notes: list[str] = []
    given = [("NUM_SHARDS", args.num_shards), ("SHARD_ID", args.shard_id)]
    shards = [item for pair in given if pair[1] is not None for item in pair]
    overrides = shards + args.opts
    if args.small:
        overrides += small(load_config(args.cfg, overrides, runs_here=False))
    cfg = load_config(args.cfg, overrides, notes)
    distributed.launch(partial(run, notes=notes, given=args.cfg), cfg, args.init_method)


if __name__ == "__main__":
    finish(main)
