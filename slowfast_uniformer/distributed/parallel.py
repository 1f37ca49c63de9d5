"""What wraps a model for speed and for several ranks: torch.compile, DistributedDataParallel, FSDP2.

Models know nothing of it. Access to sharded tensors (DTensor) is here, too.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from slowfast_uniformer.distributed.topology import world_size


def compile_blocks(blocks: Sequence[nn.Module]) -> None:
    """Have torch.compile compile the repeated blocks of a model in place, when they are first called."""
    config = torch._dynamo.config
    # With its own rate of stochastic depth each block is a variant, in training and in evaluation. Beyond the limit
    # they would stay eager.
    config.recompile_limit = max(config.recompile_limit, 2 * len(blocks))
    for block in blocks:
        block.compile()


def shard_fsdp(model: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Shard the parameters of a model over all ranks in place (FSDP2).

    Args:
        model: the bare model.
        blocks: its repeated blocks, inner ones first. Each is all-gathered when it is needed, the rest of the model
            at once.
        device: where this rank's shards are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of blocks that return a view, which must not be changed in place: no model here does that.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world_size(),))
    for module in [*blocks, model]:
        fully_shard(module, mesh=mesh)


def wrap_ddp(model: nn.Module, device: torch.device, static_graph: bool) -> nn.Module:
    """The model in DistributedDataParallel; as it is in a run of one process, or where it is sharded.

    `static_graph`: whether every backward pass synchronizes gradients (see `set_gradient_sync`). DDP can then learn
    from the first which parameters are used.
    """
    return model if world_size() == 1 or is_sharded(model) else ddp(model, device, static_graph)


def ddp(model: nn.Module, device: torch.device, static_graph: bool) -> nn.Module:
    """The model in DistributedDataParallel, in a group of any size; arguments as of `wrap_ddp`."""
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, static_graph=static_graph)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's parameters are sharded by FSDP2."""
    return hasattr(model, "set_requires_gradient_sync")


def set_gradient_sync(model: nn.Module, enabled: bool) -> None:
    """Whether the next backward pass synchronizes gradients across ranks; off while gradients accumulate."""
    if is_sharded(model):
        model.set_requires_gradient_sync(enabled)
    else:
        model.require_backward_grad_sync = enabled


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one (collective); others as they are."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def local_shard(value: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a tensor, as a view; all of it where it is not sharded."""
    return value.to_local() if hasattr(value, "to_local") else value


def shard_like(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Shard a full tensor as `like` is; every rank passes the same `value`, and nothing is sent."""
    if not hasattr(like, "full_tensor") or hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
