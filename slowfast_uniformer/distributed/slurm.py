"""A SLURM job that trains from a config and comes back to the queue by itself until it is done."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed.signals import EXIT_CODE
from slowfast_uniformer.errors import UserError

# The tasks get the signals of preemption, requeueing and the time limit and answer by a checkpoint; the shell
# waits for them. A job that was cancelled, or that SLURM requeues itself, is in state COMPLETING by then.
SCRIPT = """\
#!/usr/bin/env bash
{directives}
trap : TERM USR1
set -e
cd {folder}
{setup}code=0
{command} || code=$?
for ((n = 0; code == {again} && n < 10; n++)); do  # the controller may be busy
    if state=$(squeue --noheader --job="$SLURM_JOB_ID" --format=%T); then
        [ "$state" != RUNNING ] || scontrol requeue "$SLURM_JOB_ID" && break
    fi
    sleep 10
done
exit "$code"
"""


@dataclass
class Job:
    """What to ask SLURM for. `time` as SLURM writes it; `gpus` a node, "8" or "a100:8", "0" is the CPU;
    `tasks` a node where there are no GPUs; `warn` seconds before the end of the time the run is to save and
    leave; `setup` shell lines that come before; `options` further ones of sbatch."""

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


def seconds(time: str) -> int:
    """A limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. UserError for another."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not match:
        raise UserError(f"--time: {time!r} is not MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES[:SECONDS]]")
    days, *parts = (int(part) if part else None for part in match.groups())
    given = [part for part in parts if part is not None]
    units = (3600, 60, 1) if days is not None or len(given) == 3 else (60, 1)
    return 86400 * (days or 0) + sum(n * unit for n, unit in zip(given, units, strict=False))


def script(
    files: Sequence[str], overrides: Sequence[str], job: Job, program: str, notes: list[str] | None = None
) -> str:
    """The batch script, whose paths are absolute, and OUTPUT_DIR, in which SLURM writes.

    `program` is run_net.py; `files` and `overrides` are what it is given, and must make a valid config, to
    whose remarks (load_config) `notes` is for. UserError for what cannot work.
    """
    match = re.fullmatch(r"(?:[\w.-]+:)?(\d+)", job.gpus)
    if not match:
        raise UserError(f"--gpus-per-node: {job.gpus!r} is not a number, or TYPE:NUMBER")
    gpus = int(match[1])
    if (tasks := gpus or job.tasks) < 1:
        raise UserError(f"--tasks-per-node: {tasks} must be 1 or more")
    if seconds(job.time) < 2 * job.warn:
        raise UserError(
            f"--time {job.time}: shorter than twice --warn {job.warn}: the job would do little else than "
            "start and save. Ask for more time, or set --warn to the seconds of a step and a checkpoint"
        )
    given: list[Any] = [*overrides, "NUM_SHARDS", job.nodes, "NUM_GPUS", gpus]
    cfg = load_config(files, given, notes, runs_here=False)
    for key, size in (("TRAIN.BATCH_SIZE", cfg.TRAIN.BATCH_SIZE), ("TEST.BATCH_SIZE", cfg.TEST.BATCH_SIZE)):
        if size % tasks:
            raise UserError(f"{key}: {size} cannot be divided among {tasks} tasks")
    out = os.path.abspath(cfg.OUTPUT_DIR)
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: cannot make {out} ({error.strerror}); set it to a folder of yours") from None
    python = ["python"] if job.setup else [sys.executable]
    command = ["srun", "--kill-on-bad-exit=1"]
    command += [f"--cpus-per-task={job.cpus}"] if job.cpus else []  # srun does not take it from the job
    command += ["--gpu-bind=none"] if gpus else []  # each process takes its GPU by number
    command += [*python, program, "--cfg", *map(os.path.abspath, files), *map(str, given), "OUTPUT_DIR", out]
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {option}" for option in _options(job, gpus, tasks, out, files[0])),
        folder=shlex.quote(os.getcwd()),
        setup="".join(f"{line}\n" for line in job.setup),
        command=shlex.join(command),
        again=EXIT_CODE,
    )


def _options(job: Job, gpus: int, tasks: int, out: str, file: str) -> list[str]:
    """sbatch's options."""
    values = {
        "job-name": job.name or os.path.splitext(os.path.basename(file))[0],
        "nodes": job.nodes,
        "ntasks-per-node": tasks,
        "gpus-per-node": job.gpus if gpus else "",
        "cpus-per-task": job.cpus or "",
        "mem": job.mem,
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "output": os.path.join(out.replace("%", "%%"), "slurm-%j.out"),
        "open-mode": "append",
        "signal": f"USR1@{job.warn}",
    }
    own = [f"--{name}={shlex.quote(str(value))}" for name, value in values.items() if value != ""]
    further = [option if option.startswith("-") else f"--{option}" for option in job.options]
    for option in [*own, *further]:
        if "\n" in option:
            raise UserError(f"{option!r}: an option of sbatch is one line")
    return [*own, "--requeue", *further]


def submit(text: str) -> str:
    """Give a script to sbatch; returns what it says."""
    try:
        done = subprocess.run(["sbatch"], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("there is no sbatch here: submit on a node that has SLURM, or --print the script") from None
    if done.returncode:
        raise UserError(f"sbatch refuses the job: {done.stderr.strip()}")
    return done.stdout.strip()
