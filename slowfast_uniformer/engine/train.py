"""The training loop. One step reads top to bottom in `training_step`."""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from slowfast_uniformer import seeding
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.bad_videos import BadFiles
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import collectives, signals, status, topology
from slowfast_uniformer.engine.meter import Meter
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.optim import lr_at, set_lr
from slowfast_uniformer.engine.probe import fit_classifiers
from slowfast_uniformer.engine.state import RunState, start_run
from slowfast_uniformer.engine.step import StepResult, training_step
from slowfast_uniformer.engine.test import evaluate, features
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.files import append_json_lines
from slowfast_uniformer.runs.log import progress
from slowfast_uniformer.runs.recorder import Recorder

logger = logging.getLogger(__name__)


def train_one_epoch(run: RunState, loader: DataLoader, mixup: Mixup | None, log: Recorder) -> None:
    """Take the steps that are left of epoch `run.epoch`. Raises Interrupted between two of them where a
    signal has come."""
    cfg, sampler = run.cfg, loader.sampler
    run.model.train()
    sampler.epoch, sampler.start = run.epoch, run.seen
    batch_of_all = loader.batch_size * topology.world_size()
    videos = run.seen + len(loader) * batch_of_all  # that the epoch takes
    scale = topology.num_machines() if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1
    run.meter, last = Meter(run, run.iter + len(loader), log), run.iter + len(loader)
    bad_files = BadFiles(cfg.OUTPUT_DIR, (sample.path for sample in loader.dataset.samples))
    loader.dataset.bad_files |= bad_files.causes
    for batch, waited in timed(progress(worker_errors_explained(loader, cfg), len(loader), f"epoch {run.epoch + 1}")):
        status.set_status(f"step {run.step + 1}")
        note_bad_videos(cfg, batch, bad_files)
        seeding.seed_all(cfg.RNG_SEED, run.epoch, run.iter, topology.rank())
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
        status.set_status(f"loading the batch of step {run.step + 1}")
    run.epoch, run.iter, run.seen, run.meter, run.sums = run.epoch + 1, 0, 0, None, None


def save_or_stop(run: RunState) -> None:
    """Write a checkpoint where one is due within the epoch, and raise Interrupted where some rank has got a
    signal: all ranks do so after the same step."""
    train = run.cfg.TRAIN
    minutes = (time.monotonic() - run.saved) / 60
    late = topology.is_main() and 0 < train.CHECKPOINT_MINUTES <= minutes
    stop, late = run.vote(signals.stop_requested(), late)
    if stop:
        raise signals.Interrupted("a signal has come")
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


def note_skipped(run: RunState, step: StepResult, batch: dict, samples: list[annotations.Sample]) -> None:
    """Count and name a step that was skipped; stop after TRAIN.MAX_BAD_STEPS of them in a row."""
    run.bad_in_a_row = 0 if step.updated else run.bad_in_a_row + 1
    if step.updated:
        return
    run.skipped_steps += 1
    videos = [samples[i].path for i in dict.fromkeys(batch["videos"].tolist())]
    row = {
        "step": run.step,
        "rank": topology.rank(),
        "loss": str(float(step.loss)),
        "grad_norm": str(float(step.norm)),
        "videos": videos,
    }
    append_json_lines(os.path.join(run.cfg.OUTPUT_DIR, "skipped_steps.jsonl"), row)
    logger.warning(
        "step %d skipped: loss %g, gradient norm %g; its videos: %s", run.step, step.loss, step.norm, ", ".join(videos)
    )
    if run.bad_in_a_row >= run.cfg.TRAIN.MAX_BAD_STEPS:
        raise UserError(
            f"stopped at step {run.step}: {run.bad_in_a_row} steps in a row had a loss or gradient that is "
            "not finite. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, or set TRAIN.MIXED_PRECISION "
            "to bf16 or none"
        )


def validate(run: RunState, loader: DataLoader, log: Recorder) -> float:
    """Evaluate on the validation list, write its row and pictures; returns top-1 (or mAP) in per cent."""
    scores, errors = evaluate(run.best_net(), loader, run.cfg, "validation")
    figures = scores.result()
    log.write(run.step, {"split": "val_epoch", "epoch": run.epoch, **figures, "unreadable_videos": len(errors)})
    if topology.is_main():
        log.evaluation("val", scores, run.class_names, run.step)
        show_clips(run, loader, scores, log)
    return figures["map" if run.cfg.DATA.MULTI_LABEL else "top1_acc"]


def show_clips(run: RunState, loader: DataLoader, scores: VideoAggregator, log: Recorder, count: int = 8) -> None:
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


def show_projector(run: RunState, loader: DataLoader, log: Recorder, most: int = 2000) -> None:
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


def is_due(period: int, epoch: int, last: int) -> bool:
    """Whether something done every `period` epochs is to be done when `epoch` of `last` are done."""
    return epoch % period == 0 or epoch == last


def train(cfg: CfgNode) -> None:
    """Train to SOLVER.MAX_EPOCH, validating and writing checkpoints on the way. Raises Interrupted, with a
    checkpoint written, where a signal asks for an end."""
    log = Recorder(cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, topology.rank(), cfg.TRACKER)
    loader, val_loader = build_loader(cfg, "train"), build_loader(cfg, "val")
    run = start_run(cfg, annotations.class_names(cfg), lambda net: fit_classifiers(net, loader, cfg))
    mixup = Mixup.from_config(cfg) if cfg.MIXUP.ENABLE else None
    log_run_summary(run, loader, log)
    try:
        while run.closed < cfg.SOLVER.MAX_EPOCH:
            if run.epoch == run.closed:
                train_one_epoch(run, loader, mixup, log)
            finish_epoch(run, val_loader, log)
    except signals.Interrupted:
        logger.info("a signal has come after step %d: writing a checkpoint to continue from", run.step)
        run.save()
        run.saver.finish(must=True)
        collectives.barrier()  # a rank that ends might take the one that writes along
        raise
    finally:
        run.saver.finish()
        log.close()
    run.saver.finish(must=True)
    collectives.barrier()


def finish_epoch(run: RunState, val_loader: DataLoader, log: Recorder) -> None:
    """What is due after an epoch: validation, and checkpoints of it and of the best."""
    cfg, best = run.cfg, None
    if is_due(cfg.TRAIN.EVAL_PERIOD, run.epoch, cfg.SOLVER.MAX_EPOCH):
        top1 = validate(run, val_loader, log)
        if top1 > run.best_top1:
            run.best_top1 = top1
            best = checkpoints.best_path(cfg.OUTPUT_DIR, run.shell is not None)
    run.closed = run.epoch
    closing = is_due(cfg.TRAIN.CHECKPOINT_PERIOD, run.epoch, cfg.SOLVER.MAX_EPOCH)
    if best or closing:
        run.save(best, closing)
    if cfg.TENSORBOARD.ENABLE and cfg.TENSORBOARD.PROJECTOR and run.epoch == cfg.SOLVER.MAX_EPOCH:
        show_projector(run, val_loader, log)


def log_run_summary(run: RunState, loader: DataLoader, log: Recorder) -> None:
    """Log what is about to be trained, with the batch and learning rate that really apply."""
    cfg, machines = run.cfg, topology.num_machines()
    log.resume(run.step, run.closed)
    log.config(cfg)
    scale = machines if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1
    logger.info(
        "%s: %.2f M parameters (%.2f M trained) on %s, %d process(es) on %d machine(s)",
        cfg.MODEL.MODEL_NAME,
        sum(p.numel() for p in run.net.parameters()) / 1e6,
        sum(p.numel() for p in run.net.parameters() if p.requires_grad) / 1e6,
        run.device,
        topology.world_size(),
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
