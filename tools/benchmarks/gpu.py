"""Check and measure the program on a machine with a GPU, in a few minutes; results as JSON and as a Markdown page.

    python tools/benchmarks/gpu.py [--only correctness|speed|feeding] [--minutes 8] [--output runs/gpu]

`correctness`: golden figures of the released models in fp32 (without TF32) and bf16, training steps with activation
checkpointing, torch.compile, EMA, DDP and FSDP (one process, NCCL), a seeded training against the CPU. `speed`: forward
passes and training steps of five models with each implementation of MODEL.LAYOUT, MODEL.DW_CONV and MODEL.COMPILE.
`feeding`: the rate of transforms, and the share of a training that waits for data.

Each part has its share of the minutes. What would exceed it is cut, and the results say so. Without a GPU, or with
--dry-run, it runs on the CPU with tiny sizes and measures nothing. The exit status is 1 if a check of correctness
failed.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from slowfast_uniformer.cli.common import finish, parse_arguments, positive
from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.paths import atomic_write, expand

SHARES = {"correctness": 0.3, "speed": 0.45, "feeding": 0.25}  # of the minutes; what a part leaves is for later ones
CLOSING = 5.0  # seconds kept for ending processes and removing files


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=tuple(SHARES), help="this part alone; repeatable")
    parser.add_argument("--minutes", type=positive(float), default=8.0, help="for all parts together (%(default)g)")
    parser.add_argument("--output", type=expand, default="runs/gpu", metavar="FOLDER", help="(%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, which measure nothing")
    return parse_arguments(parser, argv)


def deadlines(chosen: Sequence[str], begin: float, seconds: float) -> dict[str, float]:
    """When each part must end; together they take `seconds` from `begin` at most."""
    total, end, found = sum(SHARES[part] for part in chosen), begin, {}
    for part in chosen:
        end += seconds * SHARES[part] / total
        found[part] = end
    return found


def machine(gpus: int, log: str) -> dict[str, Any]:
    """What the figures belong to."""
    from gpu_parts.cases import Case, run_cases
    from gpu_parts.speed import describe

    (row,) = run_cases([Case("machine", describe, {"gpus": gpus})], time.monotonic() + 120, log)
    if row["status"] != "ok":
        raise UserError(f"the device cannot be used: {row['reason']} ({log} has more); --dry-run runs on the CPU")
    return {key: value for key, value in row.items() if key not in ("name", "status", "seconds")}


def measure(args: argparse.Namespace, gpus: int, begin: float) -> dict[str, Any]:
    """Run the parts, and write the results after each case: whoever ends this early has those so far."""
    from gpu_parts import correctness, feeding, speed
    from gpu_parts.cases import run_cases
    from results import commit

    makers = {"correctness": correctness.cases, "speed": speed.cases, "feeding": feeding.cases}
    chosen = [part for part in SHARES if part in (args.only or SHARES)]
    ends = deadlines(chosen, begin, 60 * args.minutes - CLOSING)
    log = str(Path(args.output) / "gpu.log")
    Path(log).write_bytes(b"")
    results: dict[str, Any] = {"dry_run": not gpus, "is_measurement": bool(gpus), "date": str(date.today())}
    results["command"] = shlex.join(["python", "tools/benchmarks/gpu.py", *sys.argv[1:]])
    results["commit"] = commit()
    results |= {"minutes": args.minutes, "machine": machine(gpus, log), "parts": {part: [] for part in chosen}}
    with tempfile.TemporaryDirectory(prefix="gpu_benchmark_", ignore_cleanup_errors=True) as folder:
        for part in chosen:
            for row in run_cases(makers[part](gpus, folder), ends[part], log):
                results["parts"][part].append(row)
                reason = f": {row['reason']}" if "reason" in row else ""
                seconds = time.monotonic() - begin
                print(f"[{seconds:5.0f} s] {part}: {row['name']}: {row['status']}{reason}", flush=True)
                write(results, args.output)
    return results


def write(results: dict[str, Any], folder: str) -> None:
    """Write gpu.json and gpu.md."""
    from gpu_parts.page import add_shares, to_markdown

    add_shares(results["parts"].get("speed", []))
    atomic_write(str(Path(folder) / "gpu.json"), json.dumps(results, indent=2))
    atomic_write(str(Path(folder) / "gpu.md"), to_markdown(results))


def main() -> int:
    begin = time.monotonic()
    args = parse_args()
    import torch

    gpus = int(torch.cuda.is_available() and not args.dry_run)
    if not gpus:
        print(
            "A dry run on the CPU with tiny sizes" + ("" if args.dry_run else ", as there is no usable GPU"), flush=True
        )
    with os_errors_reported(f"--output {args.output}: cannot be written"):
        Path(args.output).mkdir(parents=True, exist_ok=True)
        results = measure(args, gpus, begin)
    print(f"{args.output}/gpu.md and gpu.json, in {time.monotonic() - begin:.0f} s")
    failed = [row for row in results["parts"].get("correctness", []) if row["status"] in ("failed", "error")]
    return 1 if failed else 0


if __name__ == "__main__":
    finish(main)
