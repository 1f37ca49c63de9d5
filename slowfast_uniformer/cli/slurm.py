r"""Submit a SLURM job that trains and requeues itself until complete.

    uniformer slurm --cfg k400/uniformer_s --nodes 4 --gpus-per-node 8 \
        --time 24:00:00
    uniformer slurm --cfg k400/uniformer_s --gpus-per-node 8 --time 2-0 --print

First the config, its lists, the first videos and the weights are checked, as at the start of a training. --folds trains
on all folds, one after the other, in one job. docs/cluster.md has the details.
"""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import config_parser, parse_arguments
from slowfast_uniformer.cli.train import fold_overrides
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.batch_size import batch_notes
from slowfast_uniformer.distributed.slurm import job_config, job_topology, script, submit
from slowfast_uniformer.engine.preflight import check_inputs
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights.resolve import FOLDER

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = config_parser("slurm", __doc__)
    parser.add_argument("--print", action="store_true", help="print the job script instead of submitting it")
    help_text = "do not look for lists, videos and weights: only the nodes see them"
    parser.add_argument("--no-check", action="store_true", help=help_text)
    help_text = "train on each fold in DATA.PATH_TO_DATA_DIR, as `uniformer train --folds` does"
    parser.add_argument("--folds", action="store_true", help=help_text)
    help_text = (
        "run this shell line before the training, such as 'module load cuda'; repeatable. If the lines activate "
        "another Python (venv, conda), the job uses it, else the one that runs this command"
    )
    parser.add_argument("--setup", action="append", default=[], metavar="LINE", help=help_text)
    help_text = "save a checkpoint and exit this long before the time limit"
    parser.add_argument("--warn", type=int, default=300, metavar="SECONDS", help=help_text)
    add = parser.add_argument_group("resources of the job").add_argument
    add("--nodes", type=int, default=1, metavar="N", help="number of nodes")
    help_text = "GPUs of each node, N or TYPE:N; 0 runs on the CPU"
    add("--gpus-per-node", dest="gpus", required=True, metavar="GPUS", help=help_text)
    help_text = "processes of each node if --gpus-per-node is 0"
    add("--tasks-per-node", dest="tasks", type=int, default=1, metavar="N", help=help_text)
    add(
        "--cpus-per-task",
        dest="cpus",
        type=int,
        default=0,
        metavar="N",
        help="CPU cores of each process (default: as SLURM sets it)",
    )
    help_text = "time limit, such as 24:00:00 or 2-12 (2 days and 12 hours); the job requeues itself after it"
    add("--time", required=True, metavar="LIMIT", help=help_text)
    for name, metavar in (("partition", "NAME"), ("account", "NAME"), ("qos", "NAME"), ("mem", "SIZE")):
        add(f"--{name}", default="", metavar=metavar, help=f"--{name} of sbatch")
    add("--name", default="", metavar="TEXT", help="name of the job (default: that of the first config)")
    help_text = "another option of sbatch, such as exclusive or constraint=a100; repeatable"
    add("--sbatch", dest="options", action="append", default=[], metavar="OPTION", help=help_text)
    return parse_arguments(parser, argv)


def check_files(args: argparse.Namespace, cfg: "CfgNode", notes: list[str]) -> None:
    """Check the files that a job needs, of all folds; adds to `notes`.

    Raises:
        UserError: The job would fail.
    """
    ranks = job_topology(args)
    for number, overrides in enumerate(fold_overrides(cfg) if args.folds else [[]]):
        cfg = job_config(args, [], overrides)
        try:
            found = check_inputs(cfg, fetch=False)
        except UserError as error:
            message = _with_variable(args, str(error).rstrip("."))
            raise UserError(f"{message}. If only the nodes see the files, --no-check submits without looking") from None
        found = [_with_variable(args, note) for note in found]
        if cfg.TRAIN.ENABLE:
            found = [*found, *batch_notes(cfg, ranks, len(annotations.load(cfg, "train")))]
        notes += found if number == 0 else []  # the other folds differ from the first one in counts only


def _with_variable(args: argparse.Namespace, message: str) -> str:
    """A message that weights are not here; with a remedy if only the job's own lines say where they are."""
    missing = "`uniformer weights fetch" in message or "`uniformer weights list" in message
    if not missing or os.environ.get(FOLDER) or not any(FOLDER in line for line in args.setup):
        return message
    return f"{message}. --setup mentions {FOLDER}, which these checks do not see: export it in this shell, too"


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    notes: list[str] = []
    cfg = job_config(args, notes)
    if not args.no_check:
        check_files(args, cfg, notes)
    text = script(args, cfg)
    for note in notes:
        terminal.show(f"note: {note}", error=True)
    print(text if args.print else submit(text), end="" if args.print else "\n")
