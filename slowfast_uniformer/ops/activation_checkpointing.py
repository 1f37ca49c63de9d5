"""Activation checkpointing: blocks that recompute their activations in the backward pass instead of saving them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from slowfast_uniformer.errors import UserError

_aten = torch.ops.aten
_FUSED_ATTENTION = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
# Operations whose outputs policy "selective" saves: those with many FLOPs for each byte of output
SAVED_OPS = [op.default for op in (_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.convolution)]
SAVED_OPS += [getattr(_aten, f"_scaled_dot_product_{name}").default for name in _FUSED_ATTENTION]


def checkpoint_counts(num: int | Sequence[int], stages: int) -> list[int]:
    """The number of blocks to checkpoint in each stage; one number holds for every stage."""
    counts = [num] * stages if isinstance(num, int) else list(num)
    if len(counts) != stages:
        raise UserError(f"MODEL.CHECKPOINT_NUM: {counts} must have an entry for each of {stages} stages")
    return counts


@contextmanager
def _recomputation(block: nn.Module, policy_context: AbstractContextManager) -> Iterator[None]:
    """Let batch norms update copies of their running statistics, so that these count the first pass only."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    saved = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in saved:
        setattr(norm, name, buffer.clone())
    try:
        with policy_context:
            yield
    finally:
        for norm, name, buffer in saved:
            setattr(norm, name, buffer)


def checkpoint_block(block: nn.Module, function: Callable | None = None, policy: str = "full") -> Callable:
    """A callable like `block` with activation checkpointing, if gradients are enabled.

    Results, gradients and buffers are those of calling `block`: the backward pass repeats random draws, and running
    statistics count the first pass only.

    Args:
        block: the module whose activations are recomputed.
        function: what to call instead of `block`, if it calls `block` within.
        policy: "full" saves the inputs alone; "selective" also the outputs of matrix products, convolutions and
            attention (`SAVED_OPS`).
    """
    function = function or block
    if not torch.is_grad_enabled():
        return function
    selective = partial(create_selective_checkpoint_contexts, SAVED_OPS)
    if torch.compiler.is_compiling():  # the compiler updates buffers once by design
        options = {"context_fn": selective} if policy == "selective" else {}
        return partial(checkpoint, function, use_reentrant=False, **options)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        forward, recompute = selective() if policy == "selective" else (nullcontext(), nullcontext())
        return forward, _recomputation(block, recompute)

    return partial(checkpoint, function, use_reentrant=False, context_fn=contexts)
