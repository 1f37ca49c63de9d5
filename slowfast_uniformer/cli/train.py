r"""Train and test a model from a config.

    uniformer train --cfg demo/uniformer
    uniformer train --cfg k400/uniformer_s OUTPUT_DIR runs/k400_s
    uniformer train --cfg custom/own_videos DATA.PATH_TO_DATA_DIR my_lists \
        OUTPUT_DIR runs/folds --folds

KEY VALUE pairs override the config. The same command continues an interrupted run. One process per GPU (NUM_GPUS) is
started, unless `torchrun` or `srun` has started several.

--folds trains and tests on each of the folds that `uniformer lists --folds` has written, into OUTPUT_DIR/fold_1 and so
on, and prints the scores of each fold, and of all predictions together with 95 % intervals.
"""

import argparse
import os
import sys
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import config_parser, parse_arguments, table
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.smoke import smoke_overrides
from slowfast_uniformer.data import annotations
from slowfast_uniformer.distributed import signals, topology
from slowfast_uniformer.engine.preflight import check_inputs
from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.runs import folds


def run_parser(command: str, description: str) -> argparse.ArgumentParser:
    """The parser of `train` and `test`: SlowFast's arguments, and --small."""
    parser = config_parser(command, description)
    help_text = "try the config in seconds, with small sizes and random weights"
    parser.add_argument("--small", action="store_true", help=help_text)
    add = parser.add_argument_group("several machines (start the command on each)").add_argument
    add("--init_method", default="", metavar="URL", help="address of machine 0, as tcp://HOST:PORT")
    add("--num_shards", type=int, metavar="N", help="number of machines (default: NUM_SHARDS)")
    add("--shard_id", type=int, metavar="INDEX", help="index of this machine, from 0 (default: SHARD_ID)")
    return parser


def parse_args(argv: Sequence[str] | None = None, prog: str = "") -> argparse.Namespace:
    parser = run_parser("train", __doc__)
    parser.prog = prog or parser.prog
    help_text = "train on each fold in DATA.PATH_TO_DATA_DIR, one after the other; skip finished ones"
    parser.add_argument("--folds", action="store_true", help=help_text)
    return parse_arguments(parser, argv)


def load(args: argparse.Namespace, overrides: Sequence[Any], notes: list[str]) -> CfgNode:
    """The config; `overrides` win over the arguments. Adds to `notes`."""
    opts = [*args.opts, *overrides]
    for key, value in (("NUM_SHARDS", args.num_shards), ("SHARD_ID", args.shard_id)):
        opts = opts if value is None else [key, value, *opts]
    if args.small:
        opts += smoke_overrides(load_config(args.cfg, opts, runs_here=False))
    return load_config(args.cfg, opts, notes)


def start(args: argparse.Namespace, overrides: Sequence[Any] = ()) -> None:
    """Load and check the config, then run it in every process; `overrides` win over the arguments."""
    notes: list[str] = []
    cfg = load(args, overrides, notes)
    notes += check_inputs(cfg)
    if is_first_process(cfg) and "torch" not in sys.modules:
        terminal.show("lists and inputs are checked; loading PyTorch", error=True)

    from slowfast_uniformer.distributed.launch import launch
    from slowfast_uniformer.engine.job import run_job

    try:
        job = partial(run_job, notes=notes, config_files=args.cfg, logger_name="", small=args.small)
        launch(job, cfg, args.init_method)
    except signals.Interrupted as stop:
        if cfg.TRAIN.ENABLE and not cfg.TRAIN.AUTO_RESUME:
            stop.remedy = "run the same command with TRAIN.AUTO_RESUME True to continue"
        raise
    terminal.settle()  # a summary that cannot be printed does not make a failure of a complete run


def fold_overrides(cfg: CfgNode) -> list[list[str]]:
    """KEY, VALUE, ... of each fold in DATA.PATH_TO_DATA_DIR: where its lists are, and its run is to be.

    Raises:
        UserError: There are no folds, or the config does not train and test.
    """
    data = cfg.DATA.PATH_TO_DATA_DIR
    lists = folds.fold_folders(data)
    if len(lists) < 2:
        raise UserError(
            f"{data} has no folds (fold_1, fold_2 ...); `uniformer lists FOLDER --out {data} --folds 5` writes them"
        )
    if not (cfg.TRAIN.ENABLE and cfg.TEST.ENABLE):
        raise UserError("--folds trains and tests: set TRAIN.ENABLE True and TEST.ENABLE True")
    return [
        ["DATA.PATH_TO_DATA_DIR", path, "OUTPUT_DIR", os.path.join(cfg.OUTPUT_DIR, os.path.basename(path))]
        for path in lists
    ]


def train_folds(args: argparse.Namespace) -> None:
    """Train and test on each fold that is not finished, and show the scores of all.

    Raises:
        UserError: There are no folds, or one of them cannot be used.
    """
    cfg = load(args, [], [])
    out, keys = cfg.OUTPUT_DIR, fold_overrides(cfg)
    names = [os.path.basename(path) for _, path, *_ in keys]
    states, runs = {}, {}
    for name, overrides in zip(names, keys, strict=True):  # all are looked at before the first is trained
        of_fold = load(args, overrides, [])
        runs[name] = of_fold.OUTPUT_DIR
        check_inputs(of_fold)
        splits = ["train", "test", *["val"] * (of_fold.TRAIN.EVAL_PERIOD > 0)]
        checksums = [annotations.load(of_fold, split).checksum for split in splits]
        of_all_machines = load(args, [*overrides, "SHARD_ID", 0], []).dump()
        states[name] = zlib.crc32(f"{of_all_machines} {checksums}".encode())
    finished = {
        name: fold for name, fold in folds.read_finished(out).items() if fold.get("state") == states.get(name, "")
    }
    for name, overrides in zip(names, keys, strict=True):
        if is_first_process(cfg):
            terminal.show(f"{name} is finished" if name in finished else f"{name} of {len(names)}")
        if name not in finished:
            if not topology.has_launcher():  # else all ranks have to begin the fold, and stop together in it
                signals.raise_if_any([signals.stop_requested()])
            start(args, overrides)
            finished[name] = {"state": states[name], "output_dir": runs[name]}
            if is_first_process(cfg):
                finished[name]["scores"] = folds.test_scores(runs[name])
                _summarize(cfg, {name: finished[name] for name in names if name in finished})
    if is_first_process(cfg):
        from slowfast_uniformer.engine.fold_scores import pooled_lines, summary_rows

        summary = _summarize(cfg, {name: finished[name] for name in names})
        terminal.show(table(summary_rows(summary)) + "\n")
        for line in pooled_lines(summary):
            terminal.show(line)
        terminal.show(f"  {os.path.join(out, 'folds.json')}\n  {os.path.join(out, 'predictions.csv')}")


def _summarize(cfg: CfgNode, finished: dict[str, Any]) -> dict[str, Any]:
    from slowfast_uniformer.engine.fold_scores import summarize

    with os_errors_reported(f"OUTPUT_DIR: cannot write to {cfg.OUTPUT_DIR}"):
        return summarize(cfg.OUTPUT_DIR, finished, cfg.RNG_SEED)


def is_first_process(cfg: CfgNode) -> bool:
    """Whether this process writes what is of all ranks: it is rank 0, or starts the ranks of the first machine."""
    task = topology.slurm_task()
    return topology.rank() == 0 and cfg.SHARD_ID == 0 and not (task and task["RANK"])


def main(argv: Sequence[str] | None = None, prog: str = "") -> None:
    args = parse_args(argv, prog)
    if args.folds:
        with signals.handle_signals():  # one that comes between two folds stops the next one
            train_folds(args)
    else:
        start(args)
