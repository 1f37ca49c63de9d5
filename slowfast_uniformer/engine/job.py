"""A job: set up the run's folder and logs, train, test, and print a summary."""

import logging
import os
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer.config import difference
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.test import test
from slowfast_uniformer.engine.train import train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.files import append_json_lines
from slowfast_uniformer.runs.log import setup_logging
from slowfast_uniformer.runs.starts import describe_start


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


def run_job(cfg: CfgNode, notes: list[str], given: list[str]) -> None:
    """What every process of the run does."""
    if topology.is_main():
        prepare(cfg, notes, given)
    setup_logging(cfg.OUTPUT_DIR, topology.rank())
    facts = describe_start()
    if topology.is_main():
        append_json_lines(os.path.join(cfg.OUTPUT_DIR, "starts.jsonl"), facts)
    if cfg.TRAIN.ENABLE:
        train(cfg)
    figures = test(cfg) if cfg.TEST.ENABLE else {}
    if topology.is_main():
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
