"""What a run was started with: versions, commit, hosts, batch, SLURM job. Each start is a row of starts.jsonl."""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from slowfast_uniformer.distributed import collectives, topology
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.files import read_json_lines

SLURM = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION")


def describe_start(cfg: CfgNode) -> dict[str, Any]:
    """A row of OUTPUT_DIR/starts.jsonl. Collective: `hosts` are those of all ranks.

    Batch and learning rate are those that apply with the machines and ranks there are, which NUM_SHARDS and NUM_GPUS do
    not tell of a run that torchrun or SLURM started.
    """
    versions = {}
    for name in ("torch", "torchvision", "pytorchvideo", "av", "timm", "numpy", "slowfast_uniformer"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    hosts = collectives.all_gather_objects(socket.gethostname())
    ranks = topology.current()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": commit(),
        "versions": versions,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "machines": ranks.machines,
        "ranks": ranks.ranks,
        "videos_per_step": ranks.videos_per_step(cfg),
        "clips_per_step": ranks.clips_per_step(cfg),
        "learning_rate": ranks.learning_rate(cfg),
        "hosts": list(dict.fromkeys(hosts)),
        "process": _process(),
        "launchers": launchers(),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
    }


def launchers() -> list[str]:
    """What tells one start of torchrun from all others: its run id and, of each machine, the agent (collective).

    An agent restarts its machine's ranks as often as it takes, with a new rank 0 perhaps. Run ids alone do not do:
    most people give none, or the same one each time.
    """
    own = ""
    if run_id := os.environ.get("TORCHELASTIC_RUN_ID"):
        agent, begun = os.getppid(), ""
        with suppress(OSError, IndexError):  # numbers of processes come again, above all in containers
            begun = Path(f"/proc/{agent}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        own = f"{run_id} {socket.gethostname()} {agent} {begun}"
    return [one for one in dict.fromkeys(collectives.all_gather_objects(own)) if one]


def is_restart(output_dir: str, launchers: Sequence[str]) -> bool:
    """Whether the job that this start belongs to has begun the run in a folder: torchrun restarts its processes after
    a fault, and SLURM requeues a job."""
    try:
        rows = read_json_lines(os.path.join(output_dir, "starts.jsonl"))
    except UserError:  # there is none, or it is damaged
        return False
    job, count = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    of_slurm = [row.get("slurm", {}) for row in rows]
    of_job = [start for start in of_slurm if job and start.get("SLURM_JOB_ID") == job]
    if of_job and all(int(start.get("SLURM_RESTART_COUNT") or 0) < count for start in of_job):
        return True
    same = [row for row in rows if set(launchers) & set(row.get("launchers", ()))]
    return bool(same) and all(row.get("process") != _process() for row in same)  # a script may train twice


def _process() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def commit() -> str | None:
    """The commit of the checkout that the package is in, with "+" if files were changed; None outside a checkout."""
    git = ["git", "-C", os.path.dirname(__file__)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        diff = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + "+" * bool(diff.returncode) if head.returncode == 0 else None
