"""What a run was started with: versions, commit, hosts, job. A row of OUTPUT_DIR/starts.jsonl each time."""

import os
import platform
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from slowfast_uniformer.distributed import collectives

PACKAGES = ("torch", "torchvision", "pytorchvideo", "av", "timm", "numpy", "slowfast_uniformer")
SLURM = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION")


def describe_start() -> dict[str, Any]:
    """Facts about this start of a run. Collective: `hosts` are those of all ranks."""
    hosts = collectives.all_gather_objects(socket.gethostname())
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": commit(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "ranks": len(hosts),
        "hosts": list(dict.fromkeys(hosts)),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
    }


def commit() -> str | None:
    """The commit of the checkout that the package is in, "+" if it was changed; None if it is in none."""
    here = ["git", "-C", os.path.dirname(__file__)]
    try:
        done = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*here, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() + "+" * bool(changed.returncode) if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
