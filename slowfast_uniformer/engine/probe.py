"""A linear probe as the classifier to start from: logistic regression on the features of a pretrained model.

Fine-tuning from a probe distorts pretrained features less than from random classifier weights (Kumar et al.,
arXiv 2202.10054). Where few videos are few steps, it saves most of them.
"""

import logging
from functools import partial

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader

from slowfast_uniformer.data.raw_clips import to_device
from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import collectives, signals, status, topology
from slowfast_uniformer.engine.linear_heads import is_linear, logistic_regression, set_linear
from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)


def fit_classifiers(net: nn.Module, loader: DataLoader, cfg: CfgNode) -> None:
    """Fit the classifiers that a model uses in evaluation to the training videos (collective).

    Args:
        net: the bare model, with pretrained weights.
        loader: of the training split; it is read MODEL.PROBE_EPOCHS times, with augmentation, each rank its share.

    Raises:
        Interrupted: after a signal to any rank.
        UserError: no video can be read.
    """
    for name in net.classifier:
        if not is_linear(net.get_submodule(name)):
            raise UserError(
                f"MODEL.INIT_HEAD probe: {type(net).__name__}.classifier names {name}, which must be an nn.Linear with "
                "a bias; or set MODEL.INIT_HEAD new"
            )
    passes = cfg.MODEL.PROBE_EPOCHS
    videos, times = counted(len(loader.dataset), "video"), counted(passes, "time")
    logger.info("MODEL.INIT_HEAD probe: reading %s %s", videos, times)
    own = _extract(net, loader, cfg)
    signals.raise_if_any(collectives.all_gather_objects(signals.stop_requested()))
    of_ranks = collectives.all_gather_objects(own)
    if not all(features for features, _ in of_ranks):
        raise UserError("MODEL.INIT_HEAD probe: no training video can be read. Check DATA.PATH_PREFIX")
    targets = torch.cat([batch for _, labels in of_ranks for batch in labels])
    for name in of_ranks[0][0]:
        features = torch.cat([batch for rank_features, _ in of_ranks for batch in rank_features[name]])
        with Phase(f"fit the classifier {name} to {counted(len(features), 'clip')}, all read"):
            fitted = logistic_regression(features, targets, cfg.MODEL.NUM_CLASSES, 1 / passes)
        weight, bias = collectives.broadcast_object(fitted)
        set_linear(net.get_submodule(name), weight, bias)
        best = (features @ weight.T + bias).argmax(dim=1)
        correct = targets.gather(1, best[:, None]) if targets.ndim > 1 else best == targets
        accuracy = 100 * correct.float().mean()
        logger.info(
            f"MODEL.INIT_HEAD probe: {name} fitted to {counted(len(features), 'clip')}, accuracy {accuracy:.1f} %"
        )


@torch.no_grad()
def _extract(net: nn.Module, loader: DataLoader, cfg: CfgNode) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """The inputs (N, C) of each classifier by its name, and the labels; of this rank's batches."""
    features: dict[str, list[Tensor]] = {}
    targets: list[Tensor] = []

    def keep(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        features.setdefault(name, []).append(args[0].float().cpu())

    hooks = [net.get_submodule(name).register_forward_pre_hook(partial(keep, name)) for name in net.classifier]
    net.eval()
    device, sampler = topology.device(cfg), loader.sampler
    clips = topology.current().clips_per_step(cfg)
    with Phase("fit the classifier", cfg.MODEL.PROBE_EPOCHS * len(loader) * clips, "clip") as phase:
        for epoch in range(cfg.MODEL.PROBE_EPOCHS):
            sampler.epoch, sampler.start = epoch, 0
            for batch in worker_errors_explained(loader, cfg):
                if signals.stop_requested():
                    break
                if batch["clips"] is not None:
                    made = to_device(batch["clips"], device)
                    with autocast(cfg, device):
                        net(made)
                    targets.append(batch["labels"])
                phase.advance(clips)
                status.set_status("loading for the probe")
    for hook in hooks:
        hook.remove()
    return features, targets
