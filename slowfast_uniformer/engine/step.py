"""One optimizer step: device transfer, mixup, autocast, forward, loss, backward, update."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from slowfast_uniformer.data.mixup import Mixup, smooth_one_hot
from slowfast_uniformer.distributed import parallel
from slowfast_uniformer.engine.optim import clip_gradients, step_if

if TYPE_CHECKING:
    from slowfast_uniformer.engine.state import RunState

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class StepResult(NamedTuple):
    """The metrics of a step on this rank, all of them tensors on the device: reading one waits for the step.

    Attributes:
        loss: mean over the batch, a scalar on the device.
        norm: total 2-norm of the gradient before clipping, over all ranks.
        updated: whether the step has updated the weights, on all ranks alike.
        correct: clips whose label is the highest score; None where targets are soft.
    """

    loss: Tensor
    norm: Tensor
    updated: Tensor
    correct: Tensor | None


def autocast(cfg: CfgNode, device: torch.device) -> torch.autocast:
    """The mixed-precision region of TRAIN.MIXED_PRECISION, for training and evaluation alike."""
    dtype = AMP_DTYPES[cfg.TRAIN.MIXED_PRECISION]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def loss_function(multi_label: bool) -> Callable[..., Tensor]:
    """The loss of logits (N, K): softmax cross entropy, or with `multi_label` binary cross entropy of each class."""
    return F.binary_cross_entropy_with_logits if multi_label else F.cross_entropy


def compute_loss(
    output: Tensor | tuple[Tensor, ...],
    targets: Tensor,
    multi_label: bool,
    class_weights: Tensor | None = None,
    focal_gamma: float = 0.0,
) -> Tensor:
    """The loss of a model's output: the mean over its heads and over the clips, in fp32.

    It is not divided by the weights of the batch, as PyTorch does for labels: then the loss of a batch would not be the
    mean of those of its micro-batches and ranks.

    Args:
        output: logits (N, K), or a tuple of them where a model has several heads in training.
        targets: labels (N,), or probabilities (N, K).
        multi_label: DATA.MULTI_LABEL: independent classes.
        class_weights: (K,), the factor of each class's share of the cross entropy, also where targets are soft; with
            `multi_label` that of its positive term (`pos_weight`).
        focal_gamma: SOLVER.FOCAL_GAMMA: see `focal_loss`; 0 is cross entropy.
    """
    heads = output if isinstance(output, tuple) else (output,)
    if focal_gamma > 0:
        losses = [focal_loss(head.float(), targets, multi_label, class_weights, focal_gamma) for head in heads]
    elif class_weights is None:
        losses = [loss_function(multi_label)(head.float(), targets) for head in heads]
    elif multi_label:
        losses = [F.binary_cross_entropy_with_logits(h.float(), targets, pos_weight=class_weights) for h in heads]
    else:
        losses = [F.cross_entropy(h.float(), targets, class_weights, reduction="none").mean() for h in heads]
    return torch.stack(losses).mean()


def focal_loss(
    logits: Tensor, targets: Tensor, multi_label: bool, class_weights: Tensor | None, gamma: float
) -> Tensor:
    """The focal loss (Lin et al., arXiv 1708.02002): cross entropy times (1 - p) ** gamma, with p the probability of
    what is true, so that clips which are well classified already count less.

    With a softmax, and soft targets t, it is the sum over classes of t (1 - p) ** gamma (-log p). With `multi_label` it
    is that of the paper, torchvision.ops.sigmoid_focal_loss(alpha=-1), which has no weights by class and takes seconds
    to import in each process.
    """
    tiny = 1e-12  # instead of 0, where a power below 1 has no derivative
    if multi_label:
        loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights, reduction="none")
        p = logits.sigmoid()
        wrong = p * (1 - targets) + (1 - p) * targets
        return (loss * wrong.clamp(min=tiny) ** gamma).mean()
    log_p = logits.log_softmax(1)
    if targets.ndim == 1:
        targets = smooth_one_hot(targets, logits.shape[1])
    weights = targets if class_weights is None else targets * class_weights
    return -(weights * (1 - log_p.exp()).clamp(min=tiny) ** gamma * log_p).sum(1).mean()


def training_step(run: "RunState", clips: Tensor, targets: Tensor, mixup: Mixup | None = None) -> StepResult:
    """Take one optimizer step, with gradients accumulated over TRAIN.ACCUM_STEPS micro-batches.

    A step whose loss or gradient is not finite leaves weights, optimizer, moving average and batch-norm statistics as
    they were. The device decides that: nothing here waits for it (docs/measurements.md says how).

    Args:
        clips: (N, 3, T, H, W), this rank's share of the batch, on the device or in pinned memory.
        targets: labels (N,), or with DATA.MULTI_LABEL multi-hot (N, K).
        mixup: applied to the whole batch; on the device unless gradients are accumulated.
    """
    cfg, device = run.cfg, run.device
    if mixup:
        if cfg.TRAIN.ACCUM_STEPS == 1:  # mixup's copies are not pinned, and their transfer would block
            clips, targets = clips.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        clips, targets = mixup(clips, targets)  # micro-batches stay on the CPU: the device need not hold the batch
    buffers = [buffer.clone() for buffer in run.net.buffers()]
    accum_steps, soft_targets = cfg.TRAIN.ACCUM_STEPS, targets.ndim > 1
    micro_batches = list(zip(clips.chunk(accum_steps), targets.chunk(accum_steps), strict=True))
    total_loss, correct = torch.zeros(2, device=device)
    for number, (x, y) in enumerate(micro_batches, 1):
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        parallel.set_gradient_sync(run.model, number == len(micro_batches))
        with autocast(cfg, device):
            output = run.model(x)
        loss = compute_loss(output, y, cfg.DATA.MULTI_LABEL, run.class_weights, cfg.SOLVER.FOCAL_GAMMA)
        loss = loss * len(x) / len(clips)
        run.scaler.scale(loss).backward()
        total_loss += loss.detach()
        if not soft_targets:
            logits = output[0] if isinstance(output, tuple) else output
            correct += (logits.argmax(1) == y).sum()
    run.scaler.unscale_(run.optimizer)
    norm = parallel.full_tensor(clip_gradients(run.net.parameters(), cfg.SOLVER.CLIP_GRADIENT))
    finite = torch.isfinite(norm)  # a bad loss on any rank spoils the gradient of all, so all ranks decide alike
    run.saver.wait_staged()  # a background checkpoint may still be copying the weights
    step_if(run.optimizer, finite)
    for buffer, before in zip(run.net.buffers(), buffers, strict=True):
        torch.where(finite, buffer, before, out=buffer)
    if run.ema is not None and run.epoch >= cfg.MODEL.EMA_EPOCH:
        run.ema.update(run.net, finite)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return StepResult(total_loss, norm, finite, None if soft_targets else correct)
