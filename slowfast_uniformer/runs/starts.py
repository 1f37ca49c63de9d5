"""What a run was started with: versions, commit, hosts, batch, SLURM job. Each start is a row of starts.jsonl."""

import os
import platform
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from fvcore.common.config import CfgNode

from slowfast_uniformer.distributed import collectives, topology

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
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
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
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
    }


def commit() -> str | None:
    """The commit of the checkout that the package is in, with "+" if files were changed; None outside a checkout."""
    git = ["git", "-C", os.path.dirname(__file__)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        diff = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + "+" * bool(diff.returncode) if head.returncode == 0 else None
