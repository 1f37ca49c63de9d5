"""Write or submit a SLURM job that trains from a config and requeues itself until training is complete.

    uniformer slurm --cfg k400/uniformer_s --nodes 4 --gpus-per-node 8 --time 24:00:00

docs/cluster.md has the details.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import config_parser, parse_arguments
from slowfast_uniformer.distributed.slurm import script, submit


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = config_parser("slurm", __doc__)
    parser.add_argument("--print", action="store_true", help="print the job script instead of submitting it")
    add = parser.add_argument_group("resources of the SLURM job").add_argument
    add("--nodes", type=int, default=1, help="machines (1)")
    add("--gpus-per-node", dest="gpus", required=True, help="N or TYPE:N; 0 runs on the CPU")
    add("--tasks-per-node", dest="tasks", type=int, default=1, help="processes per node on CPUs (1)")
    add("--cpus-per-task", dest="cpus", type=int, default=0, help="cores of each process")
    add("--time", required=True, help="time limit, as 24:00:00 or 2-12; the job requeues itself after it")
    add("--warn", type=int, default=300, help="seconds before the time limit to save a checkpoint and exit (300)")
    for name in ("partition", "account", "qos", "mem"):
        add(f"--{name}", default="", help="as sbatch takes it")
    add("--name", default="", help="of the job (the first config's)")
    add("--setup", action="append", default=[], help="shell line to run first; repeatable")
    help_text = "further option of sbatch, as exclusive or constraint=a100; repeatable"
    add("--sbatch", dest="options", action="append", default=[], metavar="OPTION", help=help_text)
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    notes: list[str] = []
    text = script(args, notes)
    for note in notes:
        terminal.show(f"note: {note}", error=True)
    print(text if args.print else submit(text), end="" if args.print else "\n")
