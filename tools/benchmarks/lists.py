"""Measure what a long list costs a run: CPU time, memory, and what a DataLoader worker adds to it.

    python tools/benchmarks/lists.py [--lines 1000000] [--separator " "] [--header] [--segments] [--json]

It writes a train list of made-up videos, reads it as a run does, and reads it again as a second rank of the machine
does. A forked process then asks for every video of the list, as a DataLoader worker does in the course of some epochs.
Memory is that of this process beyond what it had before (Linux). With PYTHONPATH another version of the package is
measured.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from results import to_json

from slowfast_uniformer.cli.common import positive
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.engine.preflight import check_inputs

CLASSES = 400
TEXT = """\
{lines:,} lines, {megabytes:.0f} MB
read: {cpu_seconds:.2f} s of CPU time, {peak_mb:.0f} MB at most, {held_mb:.0f} MB held
what is noted before training: {checks_cpu_seconds:.2f} s of CPU time
a second rank of the machine: {second_rank_cpu_seconds:.2f} s of CPU time, {second_rank_mb:.0f} MB of its own
a worker that walks over all of it: {worker_growth_mb:.1f} MB more, {worker_microseconds:.1f} us a video
first video of an epoch: {fresh_start_seconds:.3f} s, {resumed_start_seconds:.3f} s after a stop in the middle of it"""


def write_list(path: Path, lines: int, separator: str, header: bool, segments: bool) -> None:
    """Names as Kinetics has them, of one class each; with `segments` of videos, in seconds."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    with open(path, "w") as file:
        columns = ["path", "start", "end", "label"] if segments else ["path", "label"]
        file.write(f"{separator.join(columns)}\n" * (header or segments))
        for _ in range(lines):
            label, start = draw.randrange(CLASSES), draw.randrange(600)
            video = f"{''.join(draw.choices(letters, k=11))}_{start:06}_{start + 10:06}"
            times = f"{start + 0.25}{separator}{start + 10.5}{separator}" if segments else ""
            file.write(f"train_256/class_{label:03}/{video}.mp4{separator}{times}{label}\n")


def memory(*names: str) -> float:
    """The sum of these lines of /proc/self/smaps_rollup or status, in MB."""
    text = Path("/proc/self/smaps_rollup").read_text() + Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in names) / 1024


def forked(function: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a function finds in a forked process."""
    read, write = os.pipe()
    if not os.fork():
        os.write(write, json.dumps(function()).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(read, 65536))


def walk(samples: Any) -> dict[str, float]:
    """Ask for every video."""
    before, start = memory("Private_Dirty"), time.process_time()
    for index in range(len(samples)):
        sample = samples[index]
        assert sample.path and sample.label >= 0
    seconds = time.process_time() - start
    growth = memory("Private_Dirty") - before
    return {"worker_growth_mb": growth, "worker_microseconds": 1e6 * seconds / len(samples)}


def read_as_a_rank(cfg: Any) -> dict[str, float]:
    """Read the list in a new process, as a second rank of the machine if another one has called this before."""
    annotations._loaded.clear()
    before, start = memory("Private_Dirty"), time.process_time()
    annotations.load(cfg, "train")
    seconds = time.process_time() - start
    return {"second_rank_cpu_seconds": seconds, "second_rank_mb": memory("Private_Dirty") - before}


def first_video(sampler: Any, start: int) -> float:
    """Seconds until the sampler of an epoch that is continued after `start` videos gives one."""
    sampler.epoch, sampler.start = 1, start
    begin = time.perf_counter()
    next(iter(sampler))
    return time.perf_counter() - begin


def measure(folder: Path, lines: int, separator: str, header: bool, segments: bool = False) -> dict[str, Any]:
    write_list(folder / "train.csv", lines, separator, header, segments)
    options = ["NUM_GPUS", 0, "MODEL.NUM_CLASSES", CLASSES, "DATA.PATH_TO_DATA_DIR", str(folder)]
    options += ["DATA.PATH_PREFIX", "made-up://kinetics", "OUTPUT_DIR", str(folder / "run"), "TRAIN.EVAL_PERIOD", 0]
    cfg = load_config(None, [*options, "TEST.ENABLE", False])
    private, peak, start = memory("Private_Dirty"), memory("VmRSS"), time.process_time()
    samples = annotations.load(cfg, "train")
    found = {"lines": lines, "megabytes": (folder / "train.csv").stat().st_size / 2**20}
    found |= {"cpu_seconds": time.process_time() - start, "peak_mb": memory("VmHWM") - peak}
    found["held_mb"] = memory("Private_Dirty") - private
    found |= forked(partial(walk, samples))

    from slowfast_uniformer.data.loader import EpochSampler  # imports PyTorch, which is not the list's cost

    start = time.process_time()
    check_inputs(cfg)
    found["checks_cpu_seconds"] = time.process_time() - start
    os.environ |= {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    forked(lambda: read_as_a_rank(cfg))
    found |= forked(lambda: read_as_a_rank(cfg))
    sampler = EpochSampler(lines, shuffle=True)
    return found | {
        "fresh_start_seconds": first_video(sampler, 0),
        "resumed_start_seconds": first_video(sampler, lines // 2),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=positive(int), default=10**6, help="videos of the list (%(default)s)")
    parser.add_argument("--separator", default=" ", help="between path and label (a space)")
    parser.add_argument("--header", action="store_true", help="the list begins with the names of its columns")
    parser.add_argument("--segments", action="store_true", help="the list has start and end of a segment, and a header")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # of what ranks share, too
        found = measure(Path(folder), args.lines, args.separator, args.header, args.segments)
    print(to_json([found], threads=1) if args.json else TEXT.format(**found))


if __name__ == "__main__":
    main()
