"""The attentive head: learned queries attend to the tokens of all frames, for the classifier to read what they find.

It is the attentive probe by which video models are compared (V-JEPA, arXiv 2404.08471, section 4.1), without the
projections that are not needed. With a query that is learned, and not computed, the projection of queries and keys is
one vector for each attention head, and the projections of values and outputs are part of the classifier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grid_tokens(patches: Tensor, grid: int) -> Tensor:
    """Average patch tokens (B, T, H, W, C) over a grid of at most `grid` x `grid` cells: (B, T, N, C)."""
    batch, _, height, width, _ = patches.shape
    size = min(grid, height), min(grid, width)
    if size != (height, width):
        patches = F.adaptive_avg_pool2d(patches.flatten(0, 1).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
        patches = patches.unflatten(0, (batch, -1))
    return patches.flatten(2, 3)


def attend_to_tokens(tokens: Tensor, query: Tensor, time: Tensor) -> Tensor:
    """Means of the tokens, weighted by a softmax over all of them.

    Args:
        tokens: (B, T, N, C).
        query: (..., Q, C). Leading dimensions are heads that are trained at once.
        time: (..., Q, F), added to the scores of tokens by the time of their frame, from the first of F moments to the
            last; interpolated where T is not F.

    Returns:
        (..., B, Q, C).
    """
    frames = tokens.shape[1]
    scores = torch.einsum("btnc,...qc->...bqtn", tokens, query)
    if time.shape[-1] != frames:
        moments = F.interpolate(time.reshape(-1, 1, time.shape[-1]), frames, mode="linear")
        time = moments.reshape(*time.shape[:-1], frames)
    weights = (scores + time[..., None, :, :, None]).flatten(-2).softmax(dim=-1)
    return torch.einsum("...bqn,bnc->...bqc", weights.to(tokens.dtype), tokens.flatten(1, 2))


class AttentivePool(nn.Module):
    """Adds to the features (B, C) of clips what each query finds in their tokens (B, T, N, C): (B, (1 + Q)·C).

    Args:
        dim: C.
        queries: Q.
        frames: moments that the queries tell apart; the frames of a clip.
        grid: of the tokens, see `grid_tokens`.
    """

    def __init__(self, dim: int, queries: int, frames: int, grid: int):
        super().__init__()
        self.grid = grid
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(queries, dim), std=0.02))
        self.time = nn.Parameter(torch.zeros(queries, frames))

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        found = attend_to_tokens(tokens, self.query, self.time)
        return torch.cat((features, found.flatten(1).to(features.dtype)), dim=1)
