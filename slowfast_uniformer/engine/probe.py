"""A linear probe as the classifier to start from: logistic regression on what a model with weights already
says of the training videos. Fine-tuning from it spoils these features less than from random classifier
weights (Kumar et al., arXiv 2202.10054), and where few videos are few steps, it saves most of them."""

import logging

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader

from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import collectives, signals, status, topology
from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.log import progress

logger = logging.getLogger(__name__)


def fit_classifiers(net: nn.Module, loader: DataLoader, cfg: CfgNode) -> None:
    """Fit the classifiers that the bare `net` uses in evaluation to the videos of a training loader, seen
    MODEL.PROBE_EPOCHS times with their augmentation. Collective: each rank reads its part of the videos.

    Raises Interrupted after a signal, and UserError if no video can be read.
    """
    passes = cfg.MODEL.PROBE_EPOCHS
    logger.info("MODEL.INIT_HEAD probe: reading %d videos %d times", len(loader.dataset), passes)
    read, targets = _read(net, loader, cfg)
    if any(collectives.all_gather_objects(signals.stop_requested())):
        raise signals.Interrupted("a signal has come")
    parts = collectives.all_gather_objects((read, targets))
    if not all(rows for rows, _ in parts):
        raise UserError("MODEL.INIT_HEAD probe: no training video can be read. Check DATA.PATH_PREFIX")
    targets = torch.cat([each for _, own in parts for each in own])
    for name in parts[0][0]:
        rows = torch.cat([each for own, _ in parts for each in own[name]])
        fitted = logistic_regression(rows, targets, cfg.MODEL.NUM_CLASSES, 1 / passes)
        weight, bias = collectives.broadcast_object(fitted)
        head = net.get_submodule(name)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        right = (rows @ weight.T + bias).argmax(dim=1)
        right = targets.gather(1, right[:, None]) if targets.ndim > 1 else right == targets
        logger.info(
            "MODEL.INIT_HEAD probe: %s fitted to %d clips, of which it has %.1f %% right",
            name,
            len(rows),
            100 * right.float().mean(),
        )


@torch.no_grad()
def _read(net: nn.Module, loader: DataLoader, cfg: CfgNode) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """What each classifier reads, (N, features) a batch, by its name, and the batches' labels."""
    rows: dict[str, list[Tensor]] = {}
    targets: list[Tensor] = []

    def keep(name: str, args: tuple[Tensor, ...]) -> None:
        rows.setdefault(name, []).append(args[0].float().cpu())

    handles = [
        net.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: keep(name, args))
        for name in net.classifier
    ]
    net.eval()
    device, sampler = topology.device(cfg), loader.sampler
    for epoch in range(cfg.MODEL.PROBE_EPOCHS):
        sampler.epoch, sampler.start = epoch, 0
        for batch in progress(worker_errors_explained(loader, cfg), len(loader), f"probe {epoch + 1}"):
            if signals.stop_requested():
                break
            if batch["clips"] is not None:
                with autocast(cfg, device):
                    net(batch["clips"].to(device, non_blocking=True))
                targets.append(batch["labels"])
            status.set_status("loading for the probe")
    for handle in handles:
        handle.remove()
    return rows, targets


def logistic_regression(rows: Tensor, targets: Tensor, classes: int, weight: float) -> tuple[Tensor, Tensor]:
    """Weight (classes, features) and bias of the linear classifier of `rows` (N, features) that minimizes
    `weight` times the sum of losses, plus half the squared norm of its weights for standardized features.

    `targets` are labels (N,), or several a row as (N, classes) of 0 and 1, where each class is for itself.
    """
    x = rows.double()
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    x = (x - mean) / deviation
    layer = nn.Linear(x.shape[1], classes, dtype=x.dtype)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    loss, wanted = F.cross_entropy, targets
    if targets.ndim > 1:
        loss, wanted = F.binary_cross_entropy_with_logits, targets.to(x.dtype)
    solver = torch.optim.LBFGS(layer.parameters(), max_iter=1000, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        penalty = layer.weight.square().sum() / (2 * weight)
        value = (loss(layer(x), wanted, reduction="sum") + penalty) / len(x)
        value.backward()
        return value

    solver.step(closure)
    with torch.no_grad():  # for the features as they are
        found = layer.weight / deviation
        return found.float(), (layer.bias - found @ mean).float()
