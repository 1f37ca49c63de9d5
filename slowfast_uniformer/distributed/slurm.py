"""A SLURM job that trains from a config and requeues itself until it is done."""

import argparse
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.load import load_config, load_recipe
from slowfast_uniformer.config.recipe_notes import recipe_notes
from slowfast_uniformer.config.recipes import find_config
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.distributed.signals import EXIT_CODE
from slowfast_uniformer.errors import UserError

# Lines that activate an environment change which Python the shell finds; after others it is that of `uniformer slurm`
_SETUP = """\
before=$(command -v python || true)
{lines}
python=$(command -v python || true)
[ -n "$python" ] && [ "$python" != "$before" ] || python={python}
"""


def parse_time_limit(time: str) -> int:
    """Seconds of a time limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. UserError for another."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not match:
        raise UserError(
            f"--time: {time!r} must be MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS, such as 24:00:00 or 2-12"
        )
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))


def job_config(job: argparse.Namespace, notes: list[str], overrides: Sequence[Any] = ()) -> CfgNode:
    """The config of a job with its number of machines and GPUs, checked as far as that needs no files of the run.

    Args:
        job: see `script`.
        notes: receives what `load_config` and `recipe_notes` remark.
        overrides: KEY, VALUE, ... that win over the job's own.

    Raises:
        UserError: the config is invalid, or the job could not work.
    """
    gpus, tasks = _gpus_and_tasks(job)
    if parse_time_limit(job.time) < 2 * job.warn:
        raise UserError(
            f"--time {job.time} is shorter than twice --warn {job.warn}, so the job would do little but start and "
            "save. Set a longer --time, or a --warn of the seconds that one step and a checkpoint take"
        )
    keys = [*job.opts, "NUM_SHARDS", str(job.nodes), "NUM_GPUS", str(gpus), *overrides]
    cfg, recipe = load_config(job.cfg, keys, notes, runs_here=False), load_recipe(job.cfg[0])
    notes += recipe_notes(cfg, recipe, topology.planned(cfg), topology.planned(recipe))
    for section in ("TRAIN", "TEST"):
        if cfg[section].BATCH_SIZE % tasks:
            raise UserError(
                f"{section}.BATCH_SIZE: {cfg[section].BATCH_SIZE} videos cannot be divided among {tasks} "
                "tasks; set a multiple"
            )
    return cfg


def job_topology(job: argparse.Namespace) -> topology.Topology:
    """Machines and ranks of a job."""
    return topology.Topology(job.nodes, _gpus_and_tasks(job)[1])


def _gpus_and_tasks(job: argparse.Namespace) -> tuple[int, int]:
    """GPUs and processes of each node."""
    match = re.fullmatch(r"(?:[\w.-]+:)?(\d+)", job.gpus)
    if not match:
        raise UserError(f"--gpus-per-node: {job.gpus!r} must be a number or TYPE:NUMBER, such as 8 or a100:8")
    gpus = int(match[1])
    tasks = gpus or job.tasks
    if tasks < 1:
        raise UserError(f"--tasks-per-node: {tasks} must be 1 or more")
    return gpus, tasks


def script(job: argparse.Namespace, cfg: CfgNode) -> str:
    """The batch script of a job, with absolute paths. Makes OUTPUT_DIR, in which SLURM writes its log.

    Args:
        job: arguments of `uniformer slurm`. Of the config: `cfg`, files or names of recipes, `opts`, the KEY VALUE
            pairs that follow them, and `folds`. Of SLURM: `nodes`; `gpus` per node, "8" or "a100:8", "0" trains on the
            CPU; `tasks`, processes per node where there are no GPUs; `cpus`, cores of each process, 0 leaves it to
            SLURM; `time`, the limit in one of SLURM's formats; `warn`, seconds before it at which the run is to save
            and exit; `name`, `partition`, `account`, `qos`, `mem`; `setup`, shell lines that run first; `options` of
            sbatch.
        cfg: of `job_config`.

    Raises:
        UserError: OUTPUT_DIR cannot be made, or an option of sbatch is not one line.
    """
    gpus, tasks = _gpus_and_tasks(job)
    out = os.path.abspath(cfg.OUTPUT_DIR)
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR: cannot make {out} ({error.strerror}); set OUTPUT_DIR to a writable folder"
        ) from None
    srun = ["srun", "--kill-on-bad-exit=1"]
    srun += [f"--cpus-per-task={job.cpus}"] if job.cpus else []  # srun does not inherit it from sbatch
    srun += ["--gpu-bind=none"] if gpus else []  # each rank selects its GPU by its local rank
    train = ["-m", "slowfast_uniformer", "train", *["--folds"] * job.folds, "--cfg"]
    train += [os.path.abspath(find_config(file)) for file in job.cfg]
    own = {"NUM_SHARDS": str(job.nodes), "NUM_GPUS": str(gpus), "OUTPUT_DIR": out}
    given = dict(zip(job.opts[::2], job.opts[1::2], strict=True))  # the last value of a key wins
    pairs = [*((key, value) for key, value in given.items() if key not in own), *own.items()]
    train += itertools.chain.from_iterable(pairs)
    python = shlex.quote(sys.executable)
    chosen = '"$python"' if job.setup else python  # a variable of `_SETUP`
    template = Path(__file__).with_name("job.sbatch").read_text(encoding="utf-8")
    return template.format(
        directives="\n".join(f"#SBATCH {option}" for option in _sbatch_options(job, gpus, tasks, out)),
        folder=shlex.quote(os.getcwd()),
        setup=_SETUP.format(lines="\n".join(job.setup), python=python) if job.setup else "",
        command=f"{shlex.join(srun)} {chosen} {shlex.join(train)}",
        requeue_code=EXIT_CODE,
    )


def _sbatch_options(job: argparse.Namespace, gpus: int, tasks: int, out: str) -> list[str]:
    values = {
        "job-name": job.name or Path(job.cfg[0]).stem,
        "nodes": job.nodes,
        "ntasks-per-node": tasks,
        "gpus-per-node": job.gpus if gpus else "",
        "cpus-per-task": job.cpus or "",
        **{key: getattr(job, key) for key in ("mem", "time", "partition", "account", "qos")},
        "output": os.path.join(out.replace("%", "%%"), "slurm-%j.out"),
        "open-mode": "append",
        "signal": f"USR1@{job.warn}",
    }
    options = [f"--{key}={shlex.quote(str(value))}" for key, value in values.items() if value != ""]
    options += ["--requeue", *(option if option.startswith("-") else f"--{option}" for option in job.options)]
    if broken := [option for option in options if "\n" in option]:
        raise UserError(f"{broken[0]!r}: an option of sbatch must be one line; remove the line break")
    return options


def submit(text: str) -> str:
    """Give a script to sbatch; returns its answer."""
    try:
        done = subprocess.run(["sbatch"], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "sbatch is not installed on this machine: submit on a node that has SLURM, or add --print"
        ) from None
    if done.returncode:
        raise UserError(f"sbatch refused the job: {done.stderr.strip()}")
    return done.stdout.strip()
