"""DistributedDataParallel and FSDP2 around a model, and access to sharded tensors."""

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from slowfast_uniformer.distributed.topology import world_size


def shard_fsdp(model: nn.Module, parts: Iterable[nn.Module], where: torch.device) -> None:
    """FSDP2: every rank keeps its part of each parameter, in place; those of `parts` (inner ones first) are
    gathered when each is needed, and the rest at once."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of blocks that return a view, which must not be changed in place: no model here does that.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(where.type, (world_size(),))
    for part in [*parts, model]:
        fully_shard(part, mesh=mesh)


def wrap_ddp(model: nn.Module, where: torch.device, alike: bool) -> nn.Module:
    """The model in DistributedDataParallel, or as it is in a run of one process or one that is sharded.

    `alike`: whether each backward pass exchanges gradients (see `sync_gradients`), so that the first tells
    what all need.
    """
    if world_size() == 1 or is_sharded(model):
        return model
    devices = [where] if where.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, static_graph=alike
    )


def is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


def set_gradient_sync(model: nn.Module, now: bool) -> None:
    """Whether the next backward pass exchanges gradients with the other ranks, or leaves that to a later."""
    if is_sharded(model):
        model.set_requires_gradient_sync(now)
    else:
        model.require_backward_grad_sync = now


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this rank may hold a part; collective if so."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def local_shard(value: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor, as a view of it."""
    return value.to_local() if hasattr(value, "to_local") else value


def shard_like(own: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Of a whole tensor, the part that this rank holds of `own`."""
    if not hasattr(own, "full_tensor") or hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
