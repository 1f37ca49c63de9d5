"""Blocks whose inner values are not kept for the backward pass, but computed again in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from slowfast_uniformer.errors import UserError


def checkpoint_counts(num: int | Sequence[int], stages: int) -> list[int]:
    """How many blocks of each stage to recompute; one number stands for every stage."""
    counts = [num] * stages if isinstance(num, int) else list(num)
    if len(counts) != stages:
        raise UserError(f"MODEL.CHECKPOINT_NUM: {counts} must have an entry for each of {stages} stages")
    return counts


@contextmanager
def _scratch_statistics(block: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics, which are thrown away on leaving."""
    kept = [
        (norm, name, buffer)
        for norm in block.modules()
        if isinstance(norm, _BatchNorm)
        for name, buffer in norm.named_buffers(recurse=False)
    ]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


@contextmanager
def _both(outer: AbstractContextManager, inner: AbstractContextManager) -> Iterator[None]:
    with outer, inner:
        yield


_aten = torch.ops.aten
SAVED_OPS = [
    op.default
    for op in (
        _aten.mm,
        _aten.addmm,
        _aten.bmm,
        _aten.baddbmm,
        _aten.convolution,
        _aten._scaled_dot_product_flash_attention_for_cpu,
        _aten._scaled_dot_product_flash_attention,
        _aten._scaled_dot_product_efficient_attention,
        _aten._scaled_dot_product_cudnn_attention,
    )
]


def checkpointed(block: nn.Module, function: Callable | None = None, policy: str = "full") -> Callable:
    """`block`, or the `function` around it, keeping its inputs alone (policy "full"), or also the outputs of
    matrix products, convolutions and attention ("selective"), and computing the rest again in the backward
    pass.

    Results, gradients and buffers are those of calling `block`: random draws are repeated, and running
    statistics count the first pass only.
    """
    function = function or block
    if not torch.is_grad_enabled():
        return function
    selective = partial(create_selective_checkpoint_contexts, SAVED_OPS)
    if torch.compiler.is_compiling():  # buffers need no care there: it updates them once by itself
        options = {"context_fn": selective} if policy == "selective" else {}
        return lambda *args: checkpoint(function, *args, use_reentrant=False, **options)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        first, again = selective() if policy == "selective" else (nullcontext(), nullcontext())
        return first, _both(_scratch_statistics(block), again)

    return lambda *args: checkpoint(function, *args, use_reentrant=False, context_fn=contexts)
