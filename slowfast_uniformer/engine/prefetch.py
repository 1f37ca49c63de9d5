"""Batches on their way to the device: the next one is copied while the device computes the step before it.

With AUG.DEVICE device its clips are made there, too.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from slowfast_uniformer.data.raw_clips import to_device

COPIED = ("clips", "labels")


def prefetch(
    batches: Iterable[dict[str, Any]], device: torch.device, keys: tuple[str, ...] = COPIED
) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield (batch, seconds waited for data) with the tensors of `keys` on the device.

    Launching a step on a GPU takes less time than the step. So when the loop asks for the next batch, the GPU is still
    busy, and the copy from pinned memory and the making of clips run beside it in a stream of their own. No batch is
    taken from `batches` before the loop asks for it: a run that stops has read no video in vain, and a stop waits for
    no batch.

    Args:
        batches: of `data.loader.collate`; clips are RawClips with AUG.DEVICE device, and None where no video could be
            read.
        device: of the model. On the CPU nothing is copied, and clips are made as on a GPU.
        keys: what to copy. With gradient accumulation nothing, as the device holds a micro-batch at a time; unless
            clips are made there, which is done for a whole batch.
    """
    gpu = _Gpu(device) if device.type == "cuda" else None
    start = time.perf_counter()
    for batch in batches:
        waited = time.perf_counter() - start
        if gpu:
            gpu.wait_for_room()
        with gpu.beside_steps if gpu else nullcontext():
            copied = {key: to_device(batch[key], device) for key in keys if batch[key] is not None}
        if gpu:
            waited = gpu.begin_step(copied.values(), waited)
        yield {**batch, **copied}, waited
        if gpu:
            gpu.end_step()
        start = time.perf_counter()


class _Gpu:
    """The streams of `prefetch`, and events in the compute stream at both ends of each step.

    Attributes:
        beside_steps: context in which copies and the making of clips run beside the compute stream.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.begins: deque[tuple[torch.cuda.Event, float]] = deque()  # with the seconds that the loop waited
        self.ends: deque[torch.cuda.Event] = deque()

    @property
    def beside_steps(self) -> torch.cuda.StreamContext:
        return torch.cuda.stream(self.stream)

    def wait_for_room(self) -> None:
        """Let the loop be no more than a step ahead, so that one batch at most waits on the device.

        The step before is queued, so the GPU has work meanwhile.
        """
        if len(self.ends) > 1:
            self.ends[-2].synchronize()

    def begin_step(self, tensors: Iterable[torch.Tensor], waited: float) -> float:
        """Have the compute stream wait for the copies; returns the seconds without work of a step that has ended.

        That the loop has waited for a batch is no loss while the GPU computes. It had nothing to do from the end of
        a step to the beginning of the next one, which is known two steps later.
        """
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self.stream)
        for tensor in tensors:
            tensor.record_stream(compute)
        self.begins.append((self._event(compute), waited))
        if len(self.begins) == 1:
            return waited  # for the first batch, before there is a step
        if len(self.ends) < 3:
            return 0.0
        end = self.ends.popleft()  # of step k, where step k + 1 has ended, too: `wait_for_room`
        self.begins.popleft()
        begin, waited = self.begins[0]
        return min(waited, end.elapsed_time(begin) / 1000)

    def end_step(self) -> None:
        """Note that the step is launched."""
        self.ends.append(self._event(torch.cuda.current_stream(self.device)))

    @staticmethod
    def _event(stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event
