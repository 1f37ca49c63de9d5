"""Write or submit a SLURM job that trains from a config and requeues itself until it is done.

python tools/slurm.py --cfg configs/k400/uniformer_s.yaml --nodes 4 --gpus-per-node 8 --time 24:00:00
"""

import argparse
import sys
from pathlib import Path

from common import finish

from slowfast_uniformer.config.load import split_cfg_arguments
from slowfast_uniformer.distributed.slurm import Job, script, submit

PROGRAM = Path(__file__).resolve().with_name("run_net.py")


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files, `opts` the KEY VALUE pairs that follow them, and `job`."""
    parser = argparse.ArgumentParser(
        description="Submit a SLURM job that trains from YAML configs and requeues itself (docs/cluster.md).",
        usage="%(prog)s [options] --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]",
    )
    parser.add_argument("--cfg", nargs="+", required=True, help="config files, later ones winning")
    parser.add_argument("--print", action="store_true", help="print the job script instead of submitting it")
    ask = parser.add_argument_group("what to ask SLURM for")
    ask.add_argument("--nodes", type=int, default=1, help="machines (1)")
    ask.add_argument("--gpus-per-node", dest="gpus", required=True, help="N or TYPE:N; 0 runs on the CPU")
    ask.add_argument("--tasks-per-node", dest="tasks", type=int, default=1, help="processes on CPUs (1)")
    ask.add_argument("--cpus-per-task", dest="cpus", type=int, default=0, help="cores of each process")
    ask.add_argument("--time", required=True, help="limit, as 24:00:00 or 2-12; the job comes back after it")
    ask.add_argument("--warn", type=int, default=300, help="seconds before that to save and leave (300)")
    for name in ("partition", "account", "qos", "mem"):
        ask.add_argument(f"--{name}", default="", help="as sbatch takes it")
    ask.add_argument("--name", default="", help="of the job (the first config's)")
    ask.add_argument("--setup", action="append", default=[], help="shell line to run first; may be repeated")
    ask.add_argument(
        "--sbatch",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION",
        help="further option of sbatch, as exclusive or constraint=a100; may be repeated",
    )
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cfg, args.opts = split_cfg_arguments(args.cfg, args.opts)
    args.job = Job(**{name: getattr(args, name) for name in Job.__dataclass_fields__})
    return args


def main() -> None:
    args = parse_args()
    notes: list[str] = []
    text = script(args.cfg, args.opts, args.job, str(PROGRAM), notes)
    print(*(f"note: {note}" for note in notes), sep="\n", end="\n" * bool(notes), file=sys.stderr)
    print(text if args.print else submit(text), end="" if args.print else "\n")


if __name__ == "__main__":
    finish(main)
