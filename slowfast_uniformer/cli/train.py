"""Train a model and test it, as its config says.

    uniformer train --cfg k400/uniformer_s OUTPUT_DIR runs/k400_s

KEY VALUE pairs override the config. The same command continues an interrupted run. `torchrun` and `srun` start
several processes; otherwise one process per GPU (NUM_GPUS) is started here.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import config_parser, parse_arguments
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.smoke import smoke_overrides
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine.preflight import check_inputs


def run_parser(command: str, description: str) -> argparse.ArgumentParser:
    """The parser of `train` and `test`: SlowFast's arguments, and --small."""
    parser = config_parser(command, description)
    parser.add_argument("--init_method", default="", help="tcp://HOST:PORT of machine 0")
    parser.add_argument("--num_shards", type=int, help="number of machines (NUM_SHARDS)")
    parser.add_argument("--shard_id", type=int, help="index of this machine, from 0 (SHARD_ID)")
    parser.add_argument("--small", action="store_true", help="try the config in seconds: small sizes, no weights")
    return parser


def parse_args(argv: Sequence[str] | None = None, prog: str = "") -> argparse.Namespace:
    parser = run_parser("train", __doc__)
    parser.prog = prog or parser.prog
    return parse_arguments(parser, argv)


def start(args: argparse.Namespace, overrides: Sequence[Any] = ()) -> None:
    """Load and check the config, then run it in every process; `overrides` win over the arguments."""
    notes: list[str] = []
    opts = [*args.opts, *overrides]
    for key, value in (("NUM_SHARDS", args.num_shards), ("SHARD_ID", args.shard_id)):
        opts = opts if value is None else [key, value, *opts]
    if args.small:
        opts += smoke_overrides(load_config(args.cfg, opts, runs_here=False))
    cfg = load_config(args.cfg, opts, notes)
    notes += check_inputs(cfg)

    from slowfast_uniformer.distributed.launch import launch
    from slowfast_uniformer.engine.job import run_job

    try:
        launch(partial(run_job, notes=notes, config_files=args.cfg, logger_name=""), cfg, args.init_method)
    except signals.Interrupted as stop:
        if cfg.TRAIN.ENABLE and not cfg.TRAIN.AUTO_RESUME:
            stop.remedy = "the same command with TRAIN.AUTO_RESUME True continues"
        raise
    terminal.settle()  # a summary that cannot be printed does not make a failure of a complete run


def main(argv: Sequence[str] | None = None, prog: str = "") -> None:
    start(parse_args(argv, prog))
