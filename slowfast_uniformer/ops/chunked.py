"""Chunked computation: matrix rows in chunks whose intermediate values stay in the CPU's cache."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from slowfast_uniformer.ops.implementations import is_tracing

CHUNK_SIZE = 2048  # rows whose intermediate values fit into the cache of one thread


def map_chunked(function: Callable, *volumes: torch.Tensor) -> torch.Tensor:
    """`function(*volumes)`, chunked where that saves time: on the CPU, channels-last and without gradients.

    Args:
        function: point-wise in (T, H, W). A chunk is given as (1, C, CHUNK_SIZE, 1, 1).
        *volumes: (B, C, T, H, W), all of one shape and memory format.

    Returns:
        (B, C', T, H, W).
    """
    first = volumes[0]
    channels_last = first.device.type == "cpu" and first.is_contiguous(memory_format=torch.channels_last_3d)
    if torch.is_grad_enabled() or not channels_last or is_tracing():
        return function(*volumes)
    chunks = zip(*(volume.movedim(1, -1).flatten(0, -2).split(CHUNK_SIZE) for volume in volumes), strict=True)
    outputs = [function(*(rows.t()[None, :, :, None, None] for rows in chunk)) for chunk in chunks]
    y = torch.cat([output[0, :, :, 0, 0].t() for output in outputs])
    return y.view(first.movedim(1, -1).shape).movedim(-1, 1)


class ChunkedMlp(torch.autograd.Function):
    """Linear, GELU, linear on matrix rows, CHUNK_SIZE rows for each thread at a time.

    The outputs of GELU are computed again in the backward pass instead of being saved.
    """

    @staticmethod
    def _chunks(*matrices: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        return zip(*(m.split(CHUNK_SIZE * torch.get_num_threads()) for m in matrices), strict=True)

    @staticmethod
    def forward(ctx, x, weight_1, bias_1, weight_2, bias_2):
        hidden, y = x.new_empty(len(x), len(weight_1)), x.new_empty(len(x), len(weight_2))
        for x_rows, hidden_rows, y_rows in ChunkedMlp._chunks(x, hidden, y):
            torch.addmm(bias_1, x_rows, weight_1.t(), out=hidden_rows)
            torch.addmm(bias_2, F.gelu(hidden_rows), weight_2.t(), out=y_rows)
        ctx.save_for_backward(x, hidden, weight_1, weight_2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, hidden, weight_1, weight_2 = ctx.saved_tensors
        grad_x, grad_1, grad_2 = torch.empty_like(x), torch.zeros_like(weight_1), torch.zeros_like(weight_2)
        grad_bias_1 = x.new_zeros(len(weight_1))
        for x_rows, hidden_rows, grad_y_rows, grad_x_rows in ChunkedMlp._chunks(x, hidden, grad_y, grad_x):
            grad_2.addmm_(grad_y_rows.t(), F.gelu(hidden_rows))
            grad_hidden = torch.ops.aten.gelu_backward(grad_y_rows @ weight_2, hidden_rows)
            grad_1.addmm_(grad_hidden.t(), x_rows)
            grad_bias_1 += grad_hidden.sum(0)
            torch.mm(grad_hidden, weight_1, out=grad_x_rows)
        return grad_x, grad_1, grad_bias_1, grad_2, grad_y.sum(0)
