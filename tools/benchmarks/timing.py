"""Timing, which the benchmarks share: interleaved functions, and the median of calls on a device."""

import statistics
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
    """The minimum seconds of each function. Their calls are interleaved, so that other load slows all of them alike.

    Args:
        functions: what to call, by name.
        repeats: calls of each that count.
        clock: `time.process_time`, or another.
        device: a CUDA device to wait for.
        warmups: calls of each before these.
    """
    rounds = [{name: timed(work, clock, device) for name, work in functions.items()} for _ in range(warmups + repeats)]
    return {name: min(seconds[name] for seconds in rounds[warmups:]) for name in functions}


def median_seconds(
    work: Callable[[], Any], device: torch.device, seconds: float = 1.0, most: int = 20
) -> tuple[float, float]:
    """The median seconds of a call, and those of the first call, in which kernels are chosen and compiled.

    On a GPU events in its stream take the time, and nothing waits for it between calls, as in training.

    Args:
        work: what to call.
        device: where it runs.
        seconds: about how long to repeat it after two calls; a call that takes longer counts alone.
        most: repeats at most.
    """
    first, second = timed(work, time.perf_counter, device), timed(work, time.perf_counter, device)
    repeats = min(most, int(seconds / max(second, 1e-9)))
    if repeats < 2:
        return second, first
    if device.type != "cuda":
        return statistics.median(timed(work, time.perf_counter) for _ in range(repeats)), first
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize(device)
    spent = [start.elapsed_time(end) for start, end in zip(events, events[1:], strict=False)]
    return statistics.median(spent) / 1e3, first
