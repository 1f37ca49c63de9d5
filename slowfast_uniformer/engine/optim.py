"""Parameter groups, optimizer and learning-rate schedule.

Parameters are grouped by (learning-rate factor, kind of weight decay). The factor stays in the group as `lr_mult` and
multiplies the schedule's learning rate at every step of the run.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import require

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _cosine(solver: CfgNode, epochs: float) -> float:
    start = solver.WARMUP_EPOCHS if solver.COSINE_AFTER_WARMUP else 0.0
    length = max(solver.MAX_EPOCH - start, 1e-9)  # a run may be no longer than its warm-up
    done = min((epochs - start) / length, 1.0)
    height = (math.cos(math.pi * done) + 1.0) * 0.5
    return solver.COSINE_END_LR + (solver.BASE_LR - solver.COSINE_END_LR) * height


def _steps_with_relative_lrs(solver: CfgNode, epochs: float) -> float:
    return solver.BASE_LR * solver.LRS[bisect_right(solver.STEPS, epochs) - 1]


# Further ones need their names in config/limits.yaml, too
POLICIES = {"cosine": _cosine, "steps_with_relative_lrs": _steps_with_relative_lrs}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def lr_at(solver: CfgNode, progress_epochs: float) -> float:
    """The learning rate at a point of the run: linear warm-up to the policy's value at its end, then the policy.

    Args:
        solver: the SOLVER section.
        progress_epochs: epochs done, 0 to SOLVER.MAX_EPOCH, with a fraction inside an epoch.
    """
    policy = POLICIES[solver.LR_POLICY]
    if progress_epochs >= solver.WARMUP_EPOCHS:
        return policy(solver, progress_epochs)
    slope = (policy(solver, solver.WARMUP_EPOCHS) - solver.WARMUP_START_LR) / solver.WARMUP_EPOCHS
    return solver.WARMUP_START_LR + slope * progress_epochs


def _lr_factors(model: nn.Module, solver: CfgNode) -> dict[str, float]:
    """Each parameter's learning-rate factor: the product of LAYER_DECAY (once for each layer above the parameter's),
    BACKBONE_LR_RATIO and SPECIAL_RATIO."""
    factors = _layer_factors(model, solver)
    if solver.BACKBONE_LR_RATIO != 1.0:
        require(model, "image_backbone", "SOLVER.BACKBONE_LR_RATIO")
        for name in model.image_backbone():
            factors[name] *= solver.BACKBONE_LR_RATIO
    for part in solver.SPECIAL_LIST:
        if not any(part in name for name in factors):
            raise UserError(f"SOLVER.SPECIAL_LIST: no parameter of {type(model).__name__} has {part!r} in its name")
    special = [name for name in factors if any(part in name for part in solver.SPECIAL_LIST)]
    return factors | {name: factors[name] * solver.SPECIAL_RATIO for name in special}


def _layer_factors(model: nn.Module, solver: CfgNode) -> dict[str, float]:
    names = [name for name, _ in model.named_parameters()]
    if solver.LAYER_DECAY == 1.0:
        return dict.fromkeys(names, 1.0)
    require(model, "layer_groups", "SOLVER.LAYER_DECAY")
    upwards = enumerate(reversed(model.layer_groups()))
    factors = {name: solver.LAYER_DECAY**above for above, layer in upwards for name in layer}
    forgotten = [name for name in names if name not in factors]
    if forgotten:
        raise UserError(
            f"SOLVER.LAYER_DECAY: {type(model).__name__}.layer_groups() leaves out {', '.join(forgotten[:5])}"
            + (f" and {len(forgotten) - 5} more" if len(forgotten) > 5 else "")
        )
    return factors


def param_groups(model: nn.Module, solver: CfgNode, bn_weight_decay: float) -> list[dict[str, Any]]:
    """Group the trainable parameters for the optimizer.

    A parameter whose factor is 0 is frozen, so that no gradient is computed for it.

    Args:
        model: may have `no_weight_decay()`, `layer_groups()` and `image_backbone()`.
        solver: the SOLVER section.
        bn_weight_decay: weight decay of batch norm.

    Returns:
        Groups {params, names, weight_decay, lr_mult}. The lowest `lr_mult` comes first; within it batch norms, then
        parameters with weight decay, then those without (one-dimensional parameters and biases under
        ZERO_WD_1D_PARAM, and `model.no_weight_decay()`). Inside a group the order is the model's.

    Raises:
        UserError: the model does not have what LAYER_DECAY, BACKBONE_LR_RATIO or SPECIAL_LIST need.
    """
    factors = _lr_factors(model, solver)
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    batch_norms = (module for module in model.modules() if isinstance(module, BATCH_NORMS))
    of_batch_norms = {id(p) for module in batch_norms for p in module.parameters()}
    decays = (bn_weight_decay, solver.WEIGHT_DECAY, 0.0)  # by kind

    def kind(name: str, p: nn.Parameter) -> int:
        if id(p) in of_batch_norms:
            return 0
        flat = solver.ZERO_WD_1D_PARAM and (p.ndim <= 1 or name.endswith(".bias"))
        return 2 if flat or name in exempt else 1

    groups: dict[tuple[float, int], dict[str, Any]] = {}
    for name, p in model.named_parameters():
        p.requires_grad &= factors[name] != 0
        if p.requires_grad:
            factor, which = key = factors[name], kind(name, p)
            new = {"params": [], "names": [], "weight_decay": decays[which], "lr_mult": factor}
            group = groups.setdefault(key, new)
            group["params"].append(p)
            group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """Build the optimizer of SOLVER.OPTIMIZING_METHOD over `param_groups`, at SOLVER.BASE_LR.

    Raises:
        UserError: the method refuses its settings, or no parameter is trainable.
    """
    solver, options = cfg.SOLVER, {}
    build = OPTIMIZERS[solver.OPTIMIZING_METHOD]
    if build is torch.optim.SGD:
        options = {"momentum": solver.MOMENTUM, "dampening": solver.DAMPENING, "nesterov": solver.NESTEROV}
    groups = param_groups(model, solver, cfg.BN.WEIGHT_DECAY)
    if not groups:
        raise UserError(f"{type(model).__name__}: all parameters are frozen; unfreeze some to train")
    # PyTorch's fused SGD takes no sharded parameters
    fused = build is not torch.optim.SGD or cfg.MODEL.PARALLEL != "fsdp"
    try:
        optimizer = build(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, fused=fused, **options)
    except ValueError as error:  # such as NESTEROV without MOMENTUM
        raise UserError(f"SOLVER: {solver.OPTIMIZING_METHOD} refuses these settings: {error}") from None
    set_lr(optimizer, solver.BASE_LR)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Set every group's learning rate to `lr` times its `lr_mult`; returns `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
    return lr


def step_if(optimizer: torch.optim.Optimizer, finite: torch.Tensor) -> None:
    """Take an optimizer step where `finite` is true, a flag on the parameters' device; else change nothing.

    Fused optimizers read the flag on the device, as they do for a torch.amp.GradScaler. Others, and the first step of
    SGD with dampening, which differs from the later ones, wait for the device.
    """
    of_momentum = [group for group in optimizer.param_groups if group.get("momentum")]
    starting = [p for group in of_momentum for p in group["params"] if p.grad is not None and p not in optimizer.state]
    dampened = any(group["dampening"] for group in of_momentum)
    if not getattr(optimizer, "_step_supports_amp_scaling", False) or (starting and dampened):
        if finite:
            optimizer.step()
        return
    for p in starting:
        # A first step that is not finite would leave PyTorch's momentum uninitialized. Minus zero is what leaves every
        # number as it is when it is added, so that the first finite step stores the gradient itself, as PyTorch does.
        optimizer.state[p]["momentum_buffer"] = torch.full_like(p.grad, -0.0)
    optimizer.found_inf = (~finite).float()
    optimizer.step()
    del optimizer.found_inf


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Scale gradients down to a total 2-norm of `max_norm` (0 or None: no limit); returns the norm before."""
    parameters = list(parameters)
    if max_norm:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
