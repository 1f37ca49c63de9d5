"""Memory that a training rank holds under DDP and FSDP, and the peak of a step beside it."""

from collections import Counter
from typing import NamedTuple

from fvcore.common.config import CfgNode
from torch import nn

from slowfast_uniformer.data.raw_clips import transforms_on_device
from slowfast_uniformer.distributed import topology

# Numbers that an optimizer keeps for each element, and for each parameter (Adam's step count)
_MOMENTS = {"sgd": (1, 0), "adam": (2, 1), "adamw": (2, 1)}


class StepCost(NamedTuple):
    """What a training step takes on one rank, beside what the rank holds all the time.

    Attributes:
        saved: bytes that the forward pass saves for the backward pass, by module.
        peak: most bytes that live at once.
        peak_without_gradients: the same without gradients that are complete.
        flops: operations of a micro-batch, a multiply-add counting once.
    """

    saved: Counter
    peak: int
    peak_without_gradients: int
    flops: int


def rank_memory(cfg: CfgNode, model: nn.Module, parallel: str) -> dict[str, int]:
    """Bytes that a rank holds during the backward pass, beside activations and the clips of the step.

    With DDP on several ranks gradients are views into its buckets (`gradient_as_bucket_view`). Micro-batches before
    the last one exchange nothing, though: DDP then accumulates in tensors beside the buckets, and FSDP in unsharded
    gradients.

    Args:
        cfg: the config; it says on how many ranks.
        model: the unsharded model, on any device.
        parallel: "ddp" or "fsdp".

    Returns:
        `parameters` (with buffers), `gradients` outside of DDP's buckets, `buckets`, `optimizer`, `moving_average`,
        `gathered`, the parameters and gradients that FSDP holds unsharded at a time, and `next_batch`, the clips that
        are on a GPU beside those of the step or its micro-batch (`engine.prefetch`).
    """
    ranks, accumulates = topology.planned(cfg).ranks, cfg.TRAIN.ACCUM_STEPS > 1
    sizes = {p: p.nbytes if parallel == "ddp" else _shard_bytes(p, ranks) for p in model.parameters()}
    trained = [size for p, size in sizes.items() if p.requires_grad]
    unsharded_gradients = sum(p.nbytes for p in sizes if p.requires_grad)
    parameters = sum(sizes.values()) + sum(buffer.nbytes for buffer in model.buffers())
    buckets = unsharded_gradients if parallel == "ddp" and ranks > 1 else 0
    gradients = unsharded_gradients if accumulates else sum(trained)
    per_element, per_parameter = _MOMENTS[cfg.SOLVER.OPTIMIZING_METHOD]
    if cfg.SOLVER.OPTIMIZING_METHOD == "sgd" and not cfg.SOLVER.MOMENTUM:
        per_element = 0
    root, blocks = fsdp_groups(model)
    largest = sorted(blocks)[-2:] or [root]
    # FSDP holds unsharded: parameters of the root, a block and the one prefetched, and a block's gradients
    gathered = root + sum(largest) + largest[-1]
    return {
        "parameters": parameters,
        "gradients": 0 if buckets and not accumulates else gradients,
        "buckets": buckets,
        "optimizer": per_element * sum(trained) + 4 * per_parameter * len(trained),
        "moving_average": parameters if cfg.MODEL.EMA_EPOCH >= 0 else 0,
        "gathered": gathered if parallel == "fsdp" else 0,
        "next_batch": _clips_beside(cfg) * 3 * cfg.DATA.NUM_FRAMES * cfg.DATA.TRAIN_CROP_SIZE**2 * 4,
    }


def _clips_beside(cfg: CfgNode) -> int:
    """Clips on a GPU beside those of the micro-batch: the next batch. With gradient accumulation it is sent a
    micro-batch at a time, unless clips are made there: then the rest of this batch is there, too."""
    clips, steps = topology.planned(cfg).clips_per_rank(cfg), cfg.TRAIN.ACCUM_STEPS
    if not cfg.NUM_GPUS or (steps > 1 and not transforms_on_device(cfg)):
        return 0
    return 2 * clips - -(-clips // steps)


def peak_memory(held: dict[str, int], cost: StepCost, parallel: str) -> int:
    """Peak bytes of a training step, given what `rank_memory` and `step_cost` found.

    Gradients that are held as shards or in buckets are there all the time; others come as the backward pass gets to
    them, and take the place of what the forward pass saved.
    """
    if parallel == "fsdp" or not held["gradients"]:
        return sum(held.values()) + cost.peak_without_gradients
    return sum(held.values()) - held["gradients"] + cost.peak


def fsdp_groups(model: nn.Module) -> tuple[int, list[int]]:
    """Bytes of the parameters that FSDP gathers together: the root's (stem and head), and each block's."""
    named = dict(model.named_parameters())
    groups = model.layer_groups() if hasattr(model, "layer_groups") else [list(named)]
    stem, *blocks = [sum(named[name].nbytes for name in group) for group in groups]
    head = blocks.pop() if blocks else 0
    return stem + head, blocks


def _shard_bytes(parameter: nn.Parameter, ranks: int) -> int:
    """Bytes of the largest shard: FSDP2 splits dimension 0, and the first ranks get the most rows."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // ranks) * (parameter.nbytes // max(rows, 1))
