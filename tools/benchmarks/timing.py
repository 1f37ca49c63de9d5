"""Interleaved timing, which the benchmarks share."""

import time
from collections.abc import Callable
from typing import Any

import torch

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(work: Callable[[], Any], clock: Clock = time.process_time, device: torch.device | None = None) -> float:
    """Seconds of one call, with what it has started on the device."""
    start = clock()
    work()
    if device and device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def interleaved(
    functions: dict[str, Callable[[], Any]],
    repeats: int,
    clock: Clock = time.process_time,
    device: torch.device | None = None,
    warmups: int = 0,
) -> dict[str, float]:
    """The minimum seconds of each function. They take turns, so that other load on the machine hits all alike.

    Args:
        functions: what to call, by name.
        repeats: calls of each that count.
        clock: `time.process_time`, or another.
        device: a CUDA device to wait for.
        warmups: calls of each before these.
    """
    rounds = [{name: timed(work, clock, device) for name, work in functions.items()} for _ in range(warmups + repeats)]
    return {name: min(seconds[name] for seconds in rounds[warmups:]) for name in functions}
