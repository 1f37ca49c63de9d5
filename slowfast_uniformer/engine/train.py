"""The training loop. One step reads top to bottom in `training_step`."""

import logging
import math
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from slowfast_uniformer import checkpoint, distributed, rng
from slowfast_uniformer.config import to_plain
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.faults import BadFiles, guarded
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.optim import build_optimizer, clip_gradients, lr_at, set_lr
from slowfast_uniformer.engine.test import autocast, evaluate, same_classes
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.log import Log, progress
from slowfast_uniformer.models import build_model, weights

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """What a run carries from step to step, and a checkpoint from process to process."""

    cfg: CfgNode
    net: nn.Module  # the bare model
    model: nn.Module  # the same, wrapped for several processes
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    device: torch.device
    class_names: list[str] | None
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    best_top1: float = -1.0  # of validations; with DATA.MULTI_LABEL best mAP
    skipped_steps: int = 0
    bad_in_a_row: int = 0

    def best_net(self) -> nn.Module:
        """The weights that are evaluated: the moving average once it has begun."""
        return self.ema.module if self.ema is not None and self.ema.n_averaged > 0 else self.net

    def state(self) -> dict[str, Any]:
        averaged = self.ema is not None and self.ema.n_averaged > 0
        return {
            "model_state": self.net.state_dict(),
            "ema_state": self.ema.module.state_dict() if averaged else None,
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best_top1": self.best_top1,
            "skipped_steps": self.skipped_steps,
            "class_names": self.class_names,
            "arithmetic": getattr(self.net, "arithmetic", None),
            "cfg": to_plain(self.cfg),
        }

    def restore(self, state: dict[str, Any], source: str) -> None:
        same_classes(state.get("class_names"), self.class_names, source)
        weights.load_weights(self.net, state["model_state"], init_head="keep", source=source)
        if self.ema is not None and state.get("ema_state"):
            weights.load_weights(self.ema.module, state["ema_state"], init_head="keep", source=source)
            self.ema.n_averaged.fill_(1)
        try:
            self.optimizer.load_state_dict(state["optimizer_state"])
        except ValueError as error:
            raise UserError(
                f"{source}: its optimizer does not fit this config ({error}). Continue with the run's own "
                "config, or start from its weights with MODEL.INIT_FROM and a new OUTPUT_DIR"
            ) from None
        if self.scaler.is_enabled() and state["scaler_state"]:  # the run may not have been in fp16 so far
            self.scaler.load_state_dict(state["scaler_state"])
        for name in ("epoch", "step", "best_top1", "skipped_steps"):
            setattr(self, name, state[name])


class Step(NamedTuple):
    """What a step did: the batch's loss, gradient norm before clipping, whether the update took place, and
    how many labels were hit (None where targets are soft)."""

    loss: torch.Tensor
    norm: torch.Tensor
    updated: bool
    correct: torch.Tensor | None


def training_step(run: Run, clips: torch.Tensor, targets: torch.Tensor) -> Step:
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
        run.model.require_backward_grad_sync = number == len(parts)  # DDP sends gradients with the last part
        with autocast(cfg, run.device):
            output = run.model(x)
        heads = output if isinstance(output, tuple) else (output,)
        loss = torch.stack([criterion(head.float(), y) for head in heads]).mean()
        loss = loss * len(x) / len(clips)
        run.scaler.scale(loss).backward()
        total += loss.detach()
        correct += (heads[0].argmax(1) == y).sum() if y.ndim == 1 else 0
    run.scaler.unscale_(run.optimizer)
    norm = clip_gradients(run.net.parameters(), cfg.SOLVER.CLIP_GRADIENT)
    finite = bool(torch.isfinite(norm))  # equal on all ranks, as the gradient is, which a bad loss spoils
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
    return Step(total, norm, finite, correct if targets.ndim == 1 else None)


def train_one_epoch(run: Run, loader: DataLoader, mixup: Mixup | None, log: Log) -> None:
    """Take every step of epoch `run.epoch`."""
    cfg = run.cfg
    run.model.train()
    loader.sampler.epoch = run.epoch
    scale = distributed.machines() if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1
    meter = Meter(run, len(loader), log)
    bad_files = BadFiles(cfg.OUTPUT_DIR, (sample.path for sample in loader.dataset.samples))
    loader.dataset.bad_files |= bad_files.causes
    batches = progress(guarded(loader, cfg), len(loader), f"epoch {run.epoch + 1}")
    for i, (batch, waited) in enumerate(timed(batches)):
        note_bad_videos(cfg, batch, bad_files)
        rng.seed_all(cfg.RNG_SEED, run.epoch, i, distributed.rank())
        clips, targets = batch["clips"], batch["labels"]
        if mixup:
            clips, targets = mixup(clips, targets)
        lr = set_lr(run.optimizer, scale * lr_at(cfg.SOLVER, run.epoch + i / len(loader)))
        step = training_step(run, clips, targets)
        note_skipped(run, step, batch, loader.dataset.samples)
        meter.add(batch, step, waited)
        if (i + 1) % cfg.LOG_PERIOD == 0 or i + 1 == len(loader):
            meter.write(i + 1, lr)
    run.epoch += 1


def timed(batches: Iterable) -> Iterator[tuple[Any, float]]:
    """Yield (batch, seconds waited for it)."""
    start = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - start
        start = time.perf_counter()


def note_bad_videos(cfg: CfgNode, batch: dict, bad_files: BadFiles) -> None:
    """Name the videos that were replaced, each once; give up where replacements could not be read either, or
    where too many of all videos cannot."""
    for path, cause in batch["errors"]:
        if bad_files.add(path, cause):
            logger.warning("replaced: %s", cause)
    if batch["failed"]:
        raise UserError(
            f"{cfg.TRAIN.MAX_BAD_VIDEOS} videos in a row could not be read, the last: "
            f"{batch['errors'][-1][1]}. Check DATA.PATH_PREFIX and the train list"
        )
    bad_files.check(cfg.DATA.MAX_BAD_FRACTION)


def note_skipped(run: Run, step: Step, batch: dict, samples: list[annotations.Sample]) -> None:
    """Count and name a step that was skipped; stop after TRAIN.MAX_BAD_STEPS of them in a row."""
    run.bad_in_a_row = 0 if step.updated else run.bad_in_a_row + 1
    if step.updated:
        return
    run.skipped_steps += 1
    videos = ", ".join(samples[i].path for i in dict.fromkeys(batch["videos"].tolist()))
    logger.warning(
        "step %d skipped: loss %g, gradient norm %g; its videos: %s", run.step, step.loss, step.norm, videos
    )
    if run.bad_in_a_row >= run.cfg.TRAIN.MAX_BAD_STEPS:
        raise UserError(
            f"stopped at step {run.step}: {run.bad_in_a_row} steps in a row had a loss or gradient that is "
            "not finite. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, or set TRAIN.MIXED_PRECISION "
            "to bf16 or none"
        )


class Meter:
    """Figures of one epoch's steps: since the last line, and since the epoch began."""

    def __init__(self, run: Run, steps: int, log: Log):
        self.run, self.steps, self.log = run, steps, log
        self.epoch, self.window = Sums(), Sums()

    def add(self, batch: dict, step: Step, waited: float) -> None:
        for sums in (self.epoch, self.window):
            sums.add(batch, step, waited)

    def write(self, done: int, lr: float) -> None:
        """A `train_iter` row, and the `train_epoch` row when the epoch is done."""
        self._write("train_iter", self.window, lr, done)
        self.window = Sums()
        if done == self.steps:
            self._write("train_epoch", self.epoch, lr, done)

    def _write(self, split: str, sums: "Sums", lr: float, done: int) -> None:
        run = self.run
        left = (run.cfg.SOLVER.MAX_EPOCH - run.epoch) * self.steps - done
        row = {"split": split, "epoch": run.epoch + 1, "iter": done, "iters": self.steps, "lr": lr}
        row.update(sums.figures(run.device))
        row.update(skipped_steps=run.skipped_steps, memory_mb=memory_mb(run.device))
        self.log.write(run.step, {**row, "eta_seconds": round(left * self.epoch.seconds() / done)})


class Sums:
    """Sums over steps on this rank; `figures` puts all ranks together."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.values = torch.zeros(7, dtype=torch.float64)
        self.hard_labels = False

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def add(self, batch: dict, step: Step, waited: float) -> None:
        loss, norm = (float(step.loss), float(step.norm)) if step.updated else (0.0, 0.0)
        self.hard_labels = step.correct is not None
        hits = float(step.correct) if self.hard_labels else 0.0
        row = [step.updated, loss, norm, len(batch["clips"]), hits, len(batch["errors"]), waited]
        self.values += torch.tensor(row, dtype=torch.float64)

    def figures(self, device: torch.device) -> dict[str, float]:
        """Mean loss and gradient norm of updates, accuracy, clips per second, waiting; collective."""
        seconds, world = self.seconds(), distributed.world_size()
        values = distributed.average(self.values.to(device)).tolist()
        updates, loss, norm, clips, hits, errors, waited = values
        return {
            "loss": loss / updates if updates else math.nan,
            **({"top1_acc": 100 * hits / clips} if self.hard_labels else {}),
            "grad_norm": norm / updates if updates else math.nan,
            "clips_per_second": clips * world / seconds,
            "data_wait_percent": 100 * waited / seconds,
            "bad_videos": round(errors * world),
        }


def memory_mb(device: torch.device) -> float:
    """Peak memory so far: of the GPU's tensors, or on the CPU of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def moving_average(net: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows parameters and buffers; its first update copies them."""
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def begin(cfg: CfgNode, class_names: list[str] | None) -> Run:
    """Model, optimizer and the state they start from (see checkpoint.py for the order)."""
    own = checkpoint.newest(cfg.OUTPUT_DIR) if cfg.TRAIN.AUTO_RESUME else None
    path = own or cfg.TRAIN.CHECKPOINT_FILE_PATH
    state = checkpoint.load(path) if path else {}
    initial = weights.read(cfg.MODEL.INIT_FROM) if cfg.MODEL.INIT_FROM and not path else None
    rng.seed_all(cfg.RNG_SEED)
    device = distributed.device(cfg)
    net = build_model(cfg, initial.arithmetic if initial else state.get("arithmetic")).to(device)
    if initial:
        report = weights.load_weights(
            net, initial, init_head=cfg.MODEL.INIT_HEAD, class_names=class_names, allow=cfg.MODEL.INIT_ALLOW,
            source=cfg.MODEL.INIT_FROM,
        )  # fmt: skip
        logger.info("starting from MODEL.INIT_FROM %s: %s", cfg.MODEL.INIT_FROM, report)
    run = Run(
        cfg=cfg,
        net=net,
        model=net,
        optimizer=build_optimizer(net, cfg),
        scaler=torch.amp.GradScaler(device.type, enabled=cfg.TRAIN.MIXED_PRECISION == "fp16"),
        ema=moving_average(net, cfg.MODEL.EMA_DECAY) if cfg.MODEL.EMA_EPOCH >= 0 else None,
        device=device,
        class_names=class_names,
    )
    if path:
        run.restore(state, path)
        why = "TRAIN.AUTO_RESUME: the newest in OUTPUT_DIR" if own else "TRAIN.CHECKPOINT_FILE_PATH"
        logger.info("continuing %s after epoch %d (%s)", path, run.epoch, why)
    elif not initial:
        logger.info("starting from random weights (no checkpoint in OUTPUT_DIR, MODEL.INIT_FROM not set)")
    run.model = distributed.wrap(net, device)
    return run


def validate(run: Run, loader: DataLoader, log: Log) -> float:
    """Evaluate on the validation list, write its row and pictures; returns top-1 (or mAP) in per cent."""
    scores, errors = evaluate(run.best_net(), loader, run.cfg, "validation")
    figures = scores.result()
    log.write(
        run.step, {"split": "val_epoch", "epoch": run.epoch, **figures, "unreadable_videos": len(errors)}
    )
    if distributed.is_main():
        log.evaluation("val", scores, run.class_names, run.step)
        show_clips(run, loader, scores, log)
    return figures["map" if run.cfg.DATA.MULTI_LABEL else "top1_acc"]


def show_clips(run: Run, loader: DataLoader, scores: VideoAggregator, log: Log, count: int = 8) -> None:
    """Draw some validation clips, spread over the list, with their answers."""
    answered = scores.answered.nonzero().flatten().tolist()
    chosen = answered[:: max(1, len(answered) // count)][:count] if log.tensorboard else []
    probability, best = scores.probabilities().max(dim=1)
    name = (lambda label: run.class_names[label]) if run.class_names else str
    clips = [to_display(loader.dataset[0, video]["clips"][0], run.cfg) for video in chosen]
    true = [", ".join(map(name, loader.dataset.samples[v].labels)) for v in chosen]
    answers = [(t, name(int(best[v])), float(probability[v])) for t, v in zip(true, chosen, strict=True)]
    if chosen:
        log.clips("val", clips, answers, run.step)


def due(period: int, epoch: int, last: int) -> bool:
    """Whether something done every `period` epochs is to be done when `epoch` of `last` are done."""
    return epoch % period == 0 or epoch == last


def train(cfg: CfgNode) -> None:
    """Train to SOLVER.MAX_EPOCH, validating and writing checkpoints on the way."""
    log = Log(cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, distributed.rank())
    run = begin(cfg, annotations.class_names(cfg))
    loader, val_loader = build_loader(cfg, "train"), build_loader(cfg, "val")
    mixup = Mixup.from_config(cfg) if cfg.MIXUP.ENABLE else None
    describe(run, loader, log)
    last = cfg.SOLVER.MAX_EPOCH
    while run.epoch < last:
        train_one_epoch(run, loader, mixup, log)
        best = False
        if due(cfg.TRAIN.EVAL_PERIOD, run.epoch, last):
            top1 = validate(run, val_loader, log)
            best, run.best_top1 = top1 > run.best_top1, max(top1, run.best_top1)
        if distributed.is_main():
            if due(cfg.TRAIN.CHECKPOINT_PERIOD, run.epoch, last):
                checkpoint.save(checkpoint.path_of_epoch(cfg.OUTPUT_DIR, run.epoch), run.state())
            if best:
                checkpoint.save(checkpoint.path_of_best(cfg.OUTPUT_DIR), run.state())
        distributed.barrier()
    log.close()


def describe(run: Run, loader: DataLoader, log: Log) -> None:
    """Log what is about to be trained, with the batch and learning rate that really apply."""
    cfg, machines = run.cfg, distributed.machines()
    log.resume(run.step)
    log.config(cfg)
    scale = machines if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1
    logger.info(
        "%s: %.2f M parameters (%.2f M trained) on %s, %d process(es) on %d machine(s)",
        cfg.MODEL.MODEL_NAME,
        sum(p.numel() for p in run.net.parameters()) / 1e6,
        sum(p.numel() for p in run.net.parameters() if p.requires_grad) / 1e6,
        run.device,
        distributed.world_size(),
        machines,
    )
    logger.info(
        "%d videos, %d steps an epoch, epochs %d to %d; global batch %d videos, learning rate %g",
        len(loader.dataset),
        len(loader),
        run.epoch + 1,
        cfg.SOLVER.MAX_EPOCH,
        cfg.TRAIN.BATCH_SIZE * machines,
        cfg.SOLVER.BASE_LR * scale,
    )
