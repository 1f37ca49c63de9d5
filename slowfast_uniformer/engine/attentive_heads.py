"""Attentive heads fitted to stored tokens, many at once: one for each learning rate, weight decay and fold.

All read the same batches, so that a grid costs little more than one head, as in the evaluations of V-JEPA 2 (arXiv
2506.09985, appendix). Each begins as a linear probe: what its queries find has no weight at first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine.step import loss_function
from slowfast_uniformer.models.attentive import AttentivePool, attend_to_tokens
from slowfast_uniformer.runs.log import Phase

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
DECAYS = (0.01, 1.0)
EPOCHS = 20
BATCH_SIZE = 32  # views


@dataclass(frozen=True)
class Setting:
    """What distinguishes the heads of a grid: learning rate and weight decay of AdamW."""

    rate: float
    decay: float

    def __str__(self) -> str:
        return f"lr={self.rate:g}, wd={self.decay:g}"


GRID = tuple(Setting(rate, decay) for rate, decay in product(RATES, DECAYS))


@dataclass
class Views:
    """Stored views, standardized when they are read.

    Attributes:
        stored: (M, T, 1 + N, C), the features before the tokens of each frame.
        videos: (M,) the number of each view's video.
        mean, deviation: of features and tokens, (2, C).
    """

    stored: Tensor
    videos: Tensor
    mean: Tensor
    deviation: Tensor

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C) and tokens (B, T, N, C) of some views, in fp32."""
        values = self.stored[rows].float()
        features = (values[:, 0, 0] - self.mean[0]) / self.deviation[0]
        return features, (values[:, :, 1:] - self.mean[1]) / self.deviation[1]


def views_of(stored: Tensor, videos: Tensor) -> Views:
    """`Views` with their own mean and deviation by channel, from (M, T, 1 + N, C)."""
    sums, squares = torch.zeros(2, 2, stored.shape[-1], dtype=torch.float64)
    for rows in stored.split(256):
        for place, values in enumerate((rows[:, 0, 0], rows[:, :, 1:].flatten(0, 2))):
            sums[place] += values.double().sum(0)
            squares[place] += values.double().square().sum(0)
    counts = torch.tensor([len(stored), len(stored) * stored.shape[1] * (stored.shape[2] - 1)])[:, None]
    mean = sums / counts
    deviation = (squares / counts - mean.square()).clamp(min=0).sqrt()
    return Views(stored, videos, mean.float(), torch.where(deviation > 1e-6, deviation, 1).float())


class Heads:
    """G attentive heads of the same shape.

    Args:
        weight, bias: (G, K, C) and (G, K) of the linear probes that they begin as, for standardized features.
        queries: Q of each.
        frames: moments that the queries tell apart.
        seed: of the queries, which are the same in all heads.
    """

    def __init__(self, weight: Tensor, bias: Tensor, queries: int, frames: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        heads, classes, channels = weight.shape
        query = nn.init.trunc_normal_(torch.empty(queries, channels), std=0.02, generator=generator)
        found = torch.zeros(heads, classes, queries * channels)
        start = {
            "query": query.expand(heads, -1, -1),
            "time": torch.zeros(heads, queries, frames),
            "weight": torch.cat((weight, found), dim=2),
            "bias": bias,
        }
        self.parameters = {name: [nn.Parameter(head.clone()) for head in value] for name, value in start.items()}

    def stacked(self) -> dict[str, Tensor]:
        """The parameters, (G, ...) each."""
        return {name: torch.stack(values) for name, values in self.parameters.items()}

    def logits(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Logits (G, B, K) of features (B, C) and tokens (B, T, N, C), both standardized."""
        values = self.stacked()
        found = attend_to_tokens(tokens, values["query"], values["time"]).flatten(2)
        channels = features.shape[1]
        own, of_queries = values["weight"].split((channels, found.shape[2]), dim=2)
        logits = torch.einsum("bc,gkc->gbk", features, own) + found @ of_queries.mT
        return logits + values["bias"][:, None]


def fit_heads(
    heads: Heads, views: Views, targets: Tensor, settings: Sequence[Setting], folds: Tensor, seed: int
) -> None:
    """Train heads together, by AdamW with a cosine schedule.

    Args:
        heads: G of them.
        targets: labels (V,) or multi-hot (V, K) of the videos.
        settings: one for each head.
        folds: (G, V) bool, the videos that each head is fitted to.
        seed: of the order of views.
    """
    groups = []
    for number, setting in enumerate(settings):
        decayed = [heads.parameters[name][number] for name in ("query", "weight")]
        others = [heads.parameters[name][number] for name in ("time", "bias")]
        groups.append({"params": decayed, "lr": setting.rate, "weight_decay": setting.decay})
        groups.append({"params": others, "lr": setting.rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, foreach=True)
    steps = EPOCHS * -(-len(views.videos) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    loss = loss_function(targets.ndim > 1)
    with Phase(f"fit {len(settings)} attentive heads", steps, "step") as phase:
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(views.videos), generator=generator).split(BATCH_SIZE):
                signals.raise_if_any([signals.stop_requested()])
                videos = views.videos[rows]
                logits = heads.logits(*views.read(rows))
                wanted = targets[videos].expand(len(logits), *targets[videos].shape).flatten(0, 1)
                losses = loss(logits.flatten(0, 1), wanted, reduction="none").view(*logits.shape[:2], -1).mean(-1)
                chosen = folds[:, videos]
                total = ((losses * chosen).sum(1) / chosen.sum(1).clamp(min=1)).sum()
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                schedule.step()
                phase.advance()


@torch.no_grad()
def logits_of(heads: Heads, views: Views, shuffled: int | None = None) -> Tensor:
    """Logits (G, M, K) of all views; with the frames of each view `shuffled` by this seed."""
    generator, found = torch.Generator().manual_seed(shuffled or 0), []
    for rows in torch.arange(len(views.videos)).split(BATCH_SIZE):
        features, tokens = views.read(rows)
        if shuffled is not None:
            orders = torch.stack([torch.randperm(tokens.shape[1], generator=generator) for _ in rows])
            tokens = tokens[torch.arange(len(rows))[:, None], orders]
        found.append(heads.logits(features, tokens))
    return torch.cat(found, dim=1)


def into_model(heads: Heads, number: int, views: Views) -> tuple[AttentivePool, Tensor, Tensor]:
    """One head as a pool and the weight and bias of its classifier, for features and tokens as they are.

    Standardization vanishes: it scales queries and classifier, and shifts all scores of a query alike.
    """
    values = {name: parameters[number].detach() for name, parameters in heads.parameters.items()}
    (queries, channels), frames = values["query"].shape, values["time"].shape[1]
    pool = AttentivePool(channels, queries, frames, grid=1)
    with torch.no_grad():
        pool.query.copy_(values["query"] / views.deviation[1])
        pool.time.copy_(values["time"])
    deviation = torch.cat((views.deviation[0], views.deviation[1].repeat(queries)))
    mean = torch.cat((views.mean[0], views.mean[1].repeat(queries)))
    weight = values["weight"] / deviation
    return pool, weight, values["bias"] - weight @ mean
