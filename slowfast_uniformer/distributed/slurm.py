"""A SLURM job that trains from a config and requeues itself until it is done."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowfast_uniformer.config.load import load_config, load_recipe
from slowfast_uniformer.config.recipe_notes import recipe_notes
from slowfast_uniformer.config.recipes import find_config
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.distributed.signals import EXIT_CODE
from slowfast_uniformer.errors import UserError

TEMPLATE = Path(__file__).with_name("job.sbatch")


@dataclass
class Job:
    """The resources of a job.

    Attributes:
        nodes: machines.
        gpus: per node, "8" or "a100:8"; "0" trains on the CPU.
        time: limit, in one of SLURM's formats.
        tasks: processes per node where there are no GPUs.
        cpus: cores of each process; 0 leaves it to SLURM.
        warn: seconds before the time limit at which the run is to save and exit.
        setup: shell lines that run first.
        options: further options of sbatch.
    """

    nodes: int
    gpus: str
    time: str
    tasks: int = 1
    cpus: int = 0
    warn: int = 300
    name: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    mem: str = ""
    setup: Sequence[str] = ()
    options: Sequence[str] = ()


def parse_time_limit(time: str) -> int:
    """Seconds of a time limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. UserError for another."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not match:
        raise UserError(f"--time: {time!r} is not MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES[:SECONDS]]")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))


def script(files: Sequence[str], overrides: Sequence[str], job: Job, notes: list[str] | None = None) -> str:
    """The batch script of a job, with absolute paths. Makes OUTPUT_DIR, in which SLURM writes its log.

    Args:
        files: config files or names of recipes.
        overrides: KEY VALUE pairs that follow them.
        notes: receives what `load_config` remarks.

    Raises:
        UserError: the config is invalid, or the job could not work.
    """
    match = re.fullmatch(r"(?:[\w.-]+:)?(\d+)", job.gpus)
    if not match:
        raise UserError(f"--gpus-per-node: {job.gpus!r} is not a number, or TYPE:NUMBER")
    gpus = int(match[1])
    tasks = gpus or job.tasks
    if tasks < 1:
        raise UserError(f"--tasks-per-node: {tasks} must be 1 or more")
    if parse_time_limit(job.time) < 2 * job.warn:
        raise UserError(
            f"--time {job.time}: shorter than twice --warn {job.warn}: the job would do little else than "
            "start and save. Ask for more time, or set --warn to the seconds of a step and a checkpoint"
        )
    overrides = [*map(str, overrides), "NUM_SHARDS", str(job.nodes), "NUM_GPUS", str(gpus)]
    cfg = load_config(files, overrides, notes, runs_here=False)
    recipe = load_recipe(files[0])
    if notes is not None:
        notes += recipe_notes(cfg, recipe, topology.planned(cfg), topology.planned(recipe))
    for key, size in (("TRAIN.BATCH_SIZE", cfg.TRAIN.BATCH_SIZE), ("TEST.BATCH_SIZE", cfg.TEST.BATCH_SIZE)):
        if size % tasks:
            raise UserError(f"{key}: {size} cannot be divided among {tasks} tasks")
    out = os.path.abspath(cfg.OUTPUT_DIR)
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: cannot make {out} ({error.strerror}); set it to a folder of yours") from None
    command = ["srun", "--kill-on-bad-exit=1"]
    command += [f"--cpus-per-task={job.cpus}"] if job.cpus else []  # srun does not inherit it from sbatch
    command += ["--gpu-bind=none"] if gpus else []  # each rank selects its GPU by its local rank
    command += ["python" if job.setup else sys.executable, "-m", "slowfast_uniformer", "train", "--cfg"]
    command += [*(os.path.abspath(find_config(file)) for file in files), *overrides, "OUTPUT_DIR", out]
    name = job.name or Path(files[0]).stem
    return TEMPLATE.read_text(encoding="utf-8").format(
        directives="\n".join(f"#SBATCH {option}" for option in _sbatch_options(job, name, gpus, tasks, out)),
        folder=shlex.quote(os.getcwd()),
        setup="".join(f"{line}\n" for line in job.setup),
        command=shlex.join(command),
        requeue_code=EXIT_CODE,
    )


def _sbatch_options(job: Job, name: str, gpus: int, tasks: int, out: str) -> list[str]:
    values: dict[str, Any] = {
        "job-name": name,
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
    for option in options:
        if "\n" in option:
            raise UserError(f"{option!r}: an option of sbatch is one line")
    return options


def submit(text: str) -> str:
    """Give a script to sbatch; returns its answer."""
    try:
        done = subprocess.run(["sbatch"], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("there is no sbatch here: submit on a node that has SLURM, or --print the script") from None
    if done.returncode:
        raise UserError(f"sbatch refuses the job: {done.stderr.strip()}")
    return done.stdout.strip()
