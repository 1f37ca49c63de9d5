"""The training loop. One step reads top to bottom in `training_step`."""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from slowfast_uniformer import checkpoint, distributed, interrupt, rng
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.faults import BadFiles, guarded
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.engine.meter import Meter
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.optim import clip_gradients, lr_at, set_lr
from slowfast_uniformer.engine.probe import fit_classifiers
from slowfast_uniformer.engine.run import Run, begin
from slowfast_uniformer.engine.test import autocast, evaluate, features
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.log import Log, append, progress

logger = logging.getLogger(__name__)


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
        distributed.sync_gradients(run.model, number == len(parts))  # they are sent with the last part
        with autocast(cfg, run.device):
            output = run.model(x)
        heads = output if isinstance(output, tuple) else (output,)
        loss = torch.stack([criterion(head.float(), y) for head in heads]).mean()
        loss = loss * len(x) / len(clips)
        run.scaler.scale(loss).backward()
        total += loss.detach()
        correct += (heads[0].argmax(1) == y).sum() if y.ndim == 1 else 0
    run.scaler.unscale_(run.optimizer)
    norm = distributed.whole(clip_gradients(run.net.parameters(), cfg.SOLVER.CLIP_GRADIENT))
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
    return Step(total, norm, finite, correct if targets.ndim == 1 else None)


def train_one_epoch(run: Run, loader: DataLoader, mixup: Mixup | None, log: Log) -> None:
    """Take the steps that are left of epoch `run.epoch`. Raises Interrupted between two of them where a
    signal has come."""
    cfg, sampler = run.cfg, loader.sampler
    run.model.train()
    sampler.epoch, sampler.start = run.epoch, run.seen
    batch_of_all = loader.batch_size * distributed.world_size()
    videos = run.seen + len(loader) * batch_of_all  # that the epoch takes
    scale = distributed.machines() if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1
    run.meter, last = Meter(run, run.iter + len(loader), log), run.iter + len(loader)
    bad_files = BadFiles(cfg.OUTPUT_DIR, (sample.path for sample in loader.dataset.samples))
    loader.dataset.bad_files |= bad_files.causes
    for batch, waited in timed(progress(guarded(loader, cfg), len(loader), f"epoch {run.epoch + 1}")):
        distributed.doing(f"step {run.step + 1}")
        note_bad_videos(cfg, batch, bad_files)
        rng.seed_all(cfg.RNG_SEED, run.epoch, run.iter, distributed.rank())
        clips, targets = batch["clips"], batch["labels"]
        if mixup:
            clips, targets = mixup(clips, targets)
        lr = set_lr(run.optimizer, scale * lr_at(cfg.SOLVER, run.epoch + run.seen / videos))
        step = training_step(run, clips, targets)
        run.iter, run.seen = run.iter + 1, run.seen + batch_of_all
        note_skipped(run, step, batch, loader.dataset.samples)
        run.meter.add(batch, step, waited)
        if run.iter % cfg.LOG_PERIOD == 0 or run.iter == last:
            run.meter.write(run.iter, lr)
        save_or_stop(run)
        distributed.doing(f"loading the batch of step {run.step + 1}")
    run.epoch, run.iter, run.seen, run.meter, run.sums = run.epoch + 1, 0, 0, None, None


def save_or_stop(run: Run) -> None:
    """Write a checkpoint where one is due within the epoch, and raise Interrupted where some rank has got a
    signal: all ranks do so after the same step."""
    train = run.cfg.TRAIN
    minutes = (time.monotonic() - run.saved) / 60
    late = distributed.is_main() and 0 < train.CHECKPOINT_MINUTES <= minutes
    stop, late = run.vote(interrupt.asked(), late)
    if stop:
        raise interrupt.Interrupted("a signal has come")
    if late or (train.CHECKPOINT_STEPS and run.step % train.CHECKPOINT_STEPS == 0):
        run.save()


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
    videos = [samples[i].path for i in dict.fromkeys(batch["videos"].tolist())]
    row = {"step": run.step, "rank": distributed.rank(), "loss": str(float(step.loss)),
           "grad_norm": str(float(step.norm)), "videos": videos}  # fmt: skip
    append(os.path.join(run.cfg.OUTPUT_DIR, "skipped_steps.jsonl"), row)
    logger.warning("step %d skipped: loss %g, gradient norm %g; its videos: %s", run.step, step.loss,
                   step.norm, ", ".join(videos))  # fmt: skip
    if run.bad_in_a_row >= run.cfg.TRAIN.MAX_BAD_STEPS:
        raise UserError(
            f"stopped at step {run.step}: {run.bad_in_a_row} steps in a row had a loss or gradient that is "
            "not finite. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, or set TRAIN.MIXED_PRECISION "
            "to bf16 or none"
        )


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


def project(run: Run, loader: DataLoader, log: Log, most: int = 2000) -> None:
    """Show the features of validation clips in TensorBoard's projector."""
    net = run.best_net()
    if not hasattr(net, "forward_features"):  # one's own model may lack it
        logger.warning("TENSORBOARD.PROJECTOR: %s has no forward_features", run.cfg.MODEL.MODEL_NAME)
        return
    name = (lambda label: run.class_names[label]) if run.class_names else str
    if found := features(net, loader, run.cfg, most):
        videos, rows, pictures = zip(*found, strict=True)
        names = [", ".join(map(name, loader.dataset.samples[video].labels)) for video in videos]
        log.embedding("val", torch.stack(rows), names, torch.stack(pictures), run.step)


def due(period: int, epoch: int, last: int) -> bool:
    """Whether something done every `period` epochs is to be done when `epoch` of `last` are done."""
    return epoch % period == 0 or epoch == last


def train(cfg: CfgNode) -> None:
    """Train to SOLVER.MAX_EPOCH, validating and writing checkpoints on the way. Raises Interrupted, with a
    checkpoint written, where a signal asks for an end."""
    log = Log(cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, distributed.rank(), cfg.TRACKER)
    loader, val_loader = build_loader(cfg, "train"), build_loader(cfg, "val")
    run = begin(cfg, annotations.class_names(cfg), lambda net: fit_classifiers(net, loader, cfg))
    mixup = Mixup.from_config(cfg) if cfg.MIXUP.ENABLE else None
    describe(run, loader, log)
    try:
        while run.closed < cfg.SOLVER.MAX_EPOCH:
            if run.epoch == run.closed:
                train_one_epoch(run, loader, mixup, log)
            close_epoch(run, val_loader, log)
    except interrupt.Interrupted:
        logger.info("a signal has come after step %d: writing a checkpoint to continue from", run.step)
        run.save()
        run.saver.finish(must=True)
        distributed.barrier()  # a rank that ends might take the one that writes along
        raise
    finally:
        run.saver.finish()
        log.close()
    run.saver.finish(must=True)
    distributed.barrier()


def close_epoch(run: Run, val_loader: DataLoader, log: Log) -> None:
    """What is due after an epoch: validation, and checkpoints of it and of the best."""
    cfg, best = run.cfg, None
    if due(cfg.TRAIN.EVAL_PERIOD, run.epoch, cfg.SOLVER.MAX_EPOCH):
        top1 = validate(run, val_loader, log)
        if top1 > run.best_top1:
            run.best_top1 = top1
            best = checkpoint.path_of_best(cfg.OUTPUT_DIR, run.shell is not None)
    run.closed = run.epoch
    closing = due(cfg.TRAIN.CHECKPOINT_PERIOD, run.epoch, cfg.SOLVER.MAX_EPOCH)
    if best or closing:
        run.save(best, closing)
    if cfg.TENSORBOARD.ENABLE and cfg.TENSORBOARD.PROJECTOR and run.epoch == cfg.SOLVER.MAX_EPOCH:
        project(run, val_loader, log)


def describe(run: Run, loader: DataLoader, log: Log) -> None:
    """Log what is about to be trained, with the batch and learning rate that really apply."""
    cfg, machines = run.cfg, distributed.machines()
    log.resume(run.step, run.closed)
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
    if run.closed >= cfg.SOLVER.MAX_EPOCH:
        logger.info("all %d epochs are done: nothing is left to train", cfg.SOLVER.MAX_EPOCH)
        return
    logger.info(
        "%d videos, %d steps an epoch, epochs %d to %d; global batch %d videos, learning rate %g",
        len(loader.dataset),
        len(loader),
        run.epoch + 1,
        cfg.SOLVER.MAX_EPOCH,
        cfg.TRAIN.BATCH_SIZE * machines,
        cfg.SOLVER.BASE_LR * scale,
    )
