"""Scaled dot-product attention: fused, or with explicit weights."""

import torch
import torch.nn.functional as F
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads · dim) to (B, heads, N, dim)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, dim) to (B, N, heads · dim)."""
    return x.transpose(1, 2).flatten(2)


def attention_weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """softmax(q k^T · scale) in fp32: (B, heads, M, dim) and (B, heads, N, dim) give (B, heads, M, N)."""
    return (q @ k.transpose(-2, -1) * scale).softmax(dim=-1, dtype=torch.float32)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Attention output, (B, heads, M, dim).

    Args:
        q: queries (B, heads, M, dim).
        k: keys (B, heads, N, dim).
        v: values (B, heads, N, dim).
        scale: factor of the scores q k^T.
        dropout: probability of dropping an attention weight.
        weights: `attention_weights(q, k, scale)` for the explicit implementation. None uses PyTorch's fused
            attention, which has the weights of one block at a time in memory.
    """
    if weights is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return F.dropout(weights, dropout).to(v.dtype) @ v
