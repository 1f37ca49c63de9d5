"""Figures as JSON, with what they belong to: the fields of the files in docs/measurements/."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def to_json(rows: list[dict[str, Any]], threads: int) -> str:
    """Return the rows of a measurement that this process has made with so many threads, as JSON."""
    found: dict[str, Any] = {"date": str(date.today()), "machine": machine(threads), "commit": commit()}
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    found["command"] = shlex.join(["python", str(name), *sys.argv[1:]])
    return json.dumps(found | {"rows": rows}, indent=2)


def machine(threads: int) -> dict[str, Any]:
    """Return the model of the CPU (None where it is not known), the cores that this process may use, and threads."""
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "threads": threads}


def cpu_model() -> str | None:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found[1] if found else platform.processor() or None


def commit() -> str | None:
    """Return the commit of the checkout, or None outside of git."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
