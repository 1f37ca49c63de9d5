"""Collective operations on tensors and picklable values; with one process they return at once."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from slowfast_uniformer.distributed.topology import world_size


class AllReducedFlags:
    """Wishes of all ranks, told to all of them at the same step without any having to wait: what is wished at
    one call comes true at the next."""

    def __init__(self) -> None:
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def __call__(self, *wishes: bool) -> list[bool]:
        """Say what this rank wishes now; returns which wishes some rank had at the last call."""
        if world_size() == 1:
            return list(wishes)
        told = [False] * len(wishes)
        if self._sent:
            flags, work = self._sent
            work.wait()
            told = flags.bool().tolist()
        flags = torch.tensor(wishes, dtype=torch.float32)
        self._sent = flags, dist.all_reduce(flags, dist.ReduceOp.MAX, async_op=True)
        return told


def broadcast_tensors(values: Iterable[torch.Tensor]) -> None:
    """Give every rank the values of rank 0, such as batch norms' statistics, in place."""
    if world_size() > 1:
        for value in values:
            dist.broadcast(value, 0)


def broadcast_object(value: Any) -> Any:
    """Rank 0's picklable value, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def all_gather_objects(value: Any, group: Any = None) -> list:
    """The picklable `value` of every process, in rank order, in every process."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return values


def new_gloo_group() -> Any:
    """Another way between all processes, for a thread beside the training; None in a run of one."""
    return dist.new_group(backend="gloo") if world_size() > 1 else None


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()
