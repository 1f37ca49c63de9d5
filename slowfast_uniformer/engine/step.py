"""One optimizer step: autocast, forward, loss, backward, update."""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode

from slowfast_uniformer.distributed import parallel
from slowfast_uniformer.engine.optim import clip_gradients

if TYPE_CHECKING:
    from slowfast_uniformer.engine.state import RunState

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(cfg: CfgNode, device: torch.device) -> torch.autocast:
    """The mixed-precision region of TRAIN.MIXED_PRECISION, for training and evaluation alike."""
    dtype = AMP_DTYPES[cfg.TRAIN.MIXED_PRECISION]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


class StepResult(NamedTuple):
    """What a step did: the batch's loss, gradient norm before clipping, whether the update took place, and
    how many labels were hit (None where targets are soft)."""

    loss: torch.Tensor
    norm: torch.Tensor
    updated: bool
    correct: torch.Tensor | None


def training_step(run: "RunState", clips: torch.Tensor, targets: torch.Tensor) -> StepResult:
    """Forward, backward, update: clips (N, 3, T, H, W), targets (N,) labels or (N, K) probabilities (with
    DATA.MULTI_LABEL of each class by itself).

    A step whose loss or gradient is not finite leaves weights, optimizer and batch-norm statistics as they
    were.
    """
    cfg = run.cfg
    criterion = F.binary_cross_entropy_with_logits if cfg.DATA.MULTI_LABEL else F.cross_entropy
    buffers = [buffer.clone() for buffer in run.net.buffers()]
    parts = list(zip(clips.chunk(cfg.TRAIN.ACCUM_STEPS), targets.chunk(cfg.TRAIN.ACCUM_STEPS), strict=True))
    total, correct = torch.zeros(2, device=run.device)
    for number, (x, y) in enumerate(parts, 1):
        x, y = x.to(run.device, non_blocking=True), y.to(run.device, non_blocking=True)
        parallel.set_gradient_sync(run.model, number == len(parts))  # they are sent with the last part
        with autocast(cfg, run.device):
            output = run.model(x)
        heads = output if isinstance(output, tuple) else (output,)
        loss = torch.stack([criterion(head.float(), y) for head in heads]).mean()
        loss = loss * len(x) / len(clips)
        run.scaler.scale(loss).backward()
        total += loss.detach()
        correct += (heads[0].argmax(1) == y).sum() if y.ndim == 1 else 0
    run.scaler.unscale_(run.optimizer)
    norm = parallel.full_tensor(clip_gradients(run.net.parameters(), cfg.SOLVER.CLIP_GRADIENT))
    # Equal on all ranks, as the gradient is, which a bad loss spoils. The only time that a step waits for its
    # device (docs/performance.md says why).
    finite = bool(torch.isfinite(norm))
    run.saver.staged()
    if finite:
        run.scaler.step(run.optimizer)
        if run.ema is not None and run.epoch >= cfg.MODEL.EMA_EPOCH:
            run.ema.update_parameters(run.net)
    else:
        for buffer, before in zip(run.net.buffers(), buffers, strict=True):
            buffer.copy_(before)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return StepResult(total, norm, finite, correct if targets.ndim == 1 else None)
