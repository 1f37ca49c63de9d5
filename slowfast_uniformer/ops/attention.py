"""Scaled dot-product attention, fused or with explicit weights."""

import torch
import torch.nn.functional as F


def attention_weights(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(q k^T · scale), in fp32: (B, heads, M, dim) to (B, heads, N, dim) gives (B, heads, M, N)."""
    return (q @ k.transpose(-2, -1) * scale).softmax(dim=-1, dtype=torch.float32)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    dropout: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The means of v that q and k weight, all (B, heads, N, dim); `weights` are given where they are kept in
    memory, and otherwise only for a block of them at a time."""
    if weights is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return F.dropout(weights, dropout).to(v.dtype) @ v
