"""Collective operations on tensors and picklable values. In a run of one process they return at once."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

from slowfast_uniformer.distributed.topology import is_main, world_size
from slowfast_uniformer.errors import UserError


class AllReducedFlags:
    """Flags that are true on every rank once they were true on any.

    The all-reduce overlaps with the step: a call starts one and returns the result of the one before (all false at
    first), so that no rank waits and all ranks see a flag after the same step. One rank alone sees its flags at once.
    """

    def __init__(self) -> None:
        self._pending: tuple[torch.Tensor, dist.Work] | None = None

    def __call__(self, *flags: bool) -> list[bool]:
        """Start an all-reduce of this rank's flags; returns the flags of all ranks at the last call."""
        if world_size() == 1:
            return list(flags)
        reduced = [False] * len(flags)
        if self._pending:
            values, work = self._pending
            work.wait()
            reduced = values.bool().tolist()
        values = torch.tensor(flags, dtype=torch.float32)
        self._pending = values, dist.all_reduce(values, dist.ReduceOp.MAX, async_op=True)
        return reduced


def broadcast_tensors(values: Iterable[torch.Tensor]) -> None:
    """Copy rank 0's tensors, such as batch-norm statistics, to every rank in place."""
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


def call_on_main(function: Callable, *args: Any) -> Any:
    """The picklable result of `function(*args)`, which rank 0 alone calls, on every rank.

    For everything that is looked up in a shared folder: a stale directory listing (NFS) on one rank would make it
    take another branch than the others, and enter other collectives.

    Raises:
        UserError: on every rank, where the function has raised it on rank 0.
    """
    result = None
    if is_main():
        try:
            result = function(*args)
        except UserError as error:
            result = error
    result = broadcast_object(result)
    if isinstance(result, UserError):
        raise result
    return result


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all ranks."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def all_gather_objects(value: Any, group: Any = None) -> list:
    """The picklable `value` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return values


def new_gloo_group() -> Any:
    """A second process group of all ranks, for a thread beside the training; None in a run of one process."""
    return dist.new_group(backend="gloo") if world_size() > 1 else None


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
