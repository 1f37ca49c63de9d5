"""Chunked computation: rows of a matrix in chunks whose intermediate values stay in the CPU's cache."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from slowfast_uniformer.ops.implementations import is_tracing

CHUNK_SIZE = 2048  # rows of a matrix of which one thread's cache holds what lies between layers


def map_chunked(function: Callable, *volumes: torch.Tensor) -> torch.Tensor:
    """`function` of volumes (B, C, T, H, W), which must treat each position by itself.

    Where no gradient will be asked for, it gets `PART` of them at a time, as (1, C, PART, 1, 1).
    """
    first = volumes[0]
    last = first.device.type == "cpu" and first.is_contiguous(memory_format=torch.channels_last_3d)
    if torch.is_grad_enabled() or not last or is_tracing():
        return function(*volumes)
    parts = zip(*(volume.movedim(1, -1).flatten(0, -2).split(CHUNK_SIZE) for volume in volumes), strict=True)
    found = [function(*(part.t()[None, :, :, None, None] for part in each)) for each in parts]
    y = torch.cat([part[0, :, :, 0, 0].t() for part in found])
    return y.view(first.movedim(1, -1).shape).movedim(-1, 1)


class ChunkedMlp(torch.autograd.Function):
    """Linear, GELU, linear for the rows of a matrix, `PART` for each thread at a time: the CPU's cache then
    holds what lies between. GELU is computed again backwards, and its outputs need not be kept."""

    @staticmethod
    def _parts(*matrices: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        return zip(*(m.split(CHUNK_SIZE * torch.get_num_threads()) for m in matrices), strict=True)

    @staticmethod
    def forward(ctx, x, weight_1, bias_1, weight_2, bias_2):
        hidden, y = x.new_empty(len(x), len(weight_1)), x.new_empty(len(x), len(weight_2))
        for rows, inner, out in ChunkedMlp._parts(x, hidden, y):
            torch.addmm(bias_1, rows, weight_1.t(), out=inner)
            torch.addmm(bias_2, F.gelu(inner), weight_2.t(), out=out)
        ctx.save_for_backward(x, hidden, weight_1, weight_2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        x, hidden, weight_1, weight_2 = ctx.saved_tensors
        grad_x, grad_1, grad_2 = torch.empty_like(x), torch.zeros_like(weight_1), torch.zeros_like(weight_2)
        grad_bias_1 = x.new_zeros(len(weight_1))
        for rows, inner, up, out in ChunkedMlp._parts(x, hidden, upstream, grad_x):
            grad_2.addmm_(up.t(), F.gelu(inner))
            grad_inner = torch.ops.aten.gelu_backward(up @ weight_2, inner)
            grad_1.addmm_(grad_inner.t(), rows)
            grad_bias_1 += grad_inner.sum(0)
            torch.mm(grad_inner, weight_1, out=out)
        return grad_x, grad_1, grad_bias_1, grad_2, upstream.sum(0)
