"""The training loop: epochs of steps, validation, checkpoints, logging. engine/step.py has the step itself."""

import logging
import math
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from slowfast_uniformer import seeding
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.bad_videos import BadVideos, forget_changed
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.data.raw_clips import to_device, transforms_on_device
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import collectives, signals, status, topology
from slowfast_uniformer.engine import calibration, changes
from slowfast_uniformer.engine.chance import log_chance_note
from slowfast_uniformer.engine.class_balance import balance_classes
from slowfast_uniformer.engine.meter import Meter, RunningSums, memory_mb
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.optim import lr_at, set_lr
from slowfast_uniformer.engine.precision import fp32_note
from slowfast_uniformer.engine.prefetch import COPIED, prefetch
from slowfast_uniformer.engine.probe import fit_classifiers
from slowfast_uniformer.engine.state import RunState, UnreadStep, start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.engine.test import SHOWN, evaluate, features, groups_of, record_evaluation
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.files import append_json_lines
from slowfast_uniformer.runs.log import EPOCH_LINE, Phase
from slowfast_uniformer.runs.recorder import Recorder
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)


def train(cfg: CfgNode, own: str | None = None, small: bool = False) -> None:
    """Train to SOLVER.MAX_EPOCH, or until TRAIN.PATIENCE ends the run, with validation and checkpoints (collective).

    Args:
        cfg: the run's config.
        own: the run's own checkpoint to continue from, where it is known already; else TRAIN.AUTO_RESUME finds it.
        small: whether all sizes were made small to try the config: then accuracy at chance is not noted.

    Raises:
        Interrupted: a signal has requested a stop; a checkpoint is written.
        UserError: the run cannot go on, or its last checkpoint could not be written.
    """
    recorder = Recorder(cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, topology.rank(), cfg.TRACKER)
    loader = build_loader(cfg, "train")
    val_loader = build_loader(cfg, "val") if cfg.TRAIN.EVAL_PERIOD else None
    run = start_run(cfg, annotations.class_names(cfg), lambda net: fit_classifiers(net, loader, cfg), own)
    run.inputs = changes.inputs(cfg, loader, val_loader)
    for line in changes.changes(run, len(loader)) if topology.is_main() else ():
        logger.warning("%s", line)
    mixup = Mixup(cfg) if cfg.MIXUP.ENABLE else None
    recorder.resume(run.step, run.epochs_finished)
    recorder.config(cfg, run.step)
    recorder.text("run/model", model_summary(run), run.step)
    log_run_summary(run, loader)
    balance_classes(run, loader, recorder)
    if not run.complete:
        limit = cfg.DATA.MAX_BAD_FRACTION
        collectives.call_on_main(forget_changed, cfg.OUTPUT_DIR, loader.dataset.samples, limit)
    try:
        while not run.complete:
            if run.epoch == run.epochs_finished:
                train_one_epoch(run, loader, mixup, recorder)
            finish_epoch(run, val_loader, recorder, small)
    except signals.Interrupted:
        logger.info("stop requested by a signal: writing a checkpoint after step %d to continue from", run.step)
        run.save()
        run.saver.finish(raise_on_failure=True)
        collectives.barrier()  # a rank that exits might end the one that writes
        raise
    finally:
        run.saver.finish()
        recorder.close()
    run.saver.finish(raise_on_failure=True)
    collectives.barrier()


def train_one_epoch(run: RunState, loader: DataLoader, mixup: Mixup | None, recorder: Recorder) -> None:
    """Take the remaining steps of epoch `run.epoch`. Raises Interrupted between two steps after a signal."""
    cfg, sampler, ranks = run.cfg, loader.sampler, topology.current()
    run.model.train()
    sampler.epoch, sampler.start = run.epoch, run.samples_seen
    videos_per_step = ranks.videos_per_step(cfg)
    steps = run.iter + len(loader)
    videos = run.samples_seen + len(loader) * videos_per_step
    run.meter = Meter(run.meter_state)
    bad_videos = BadVideos(cfg.OUTPUT_DIR, loader.dataset.samples)
    bad_videos.videos = collectives.broadcast_object(bad_videos.videos)  # others may see an older file (NFS)
    loader.dataset.bad_videos |= bad_videos.damaged
    samples = loader.dataset.samples
    run.temperature = None  # of weights that the next step changes
    copied = COPIED if cfg.TRAIN.ACCUM_STEPS == 1 or transforms_on_device(cfg) else ()
    batches = prefetch(worker_errors_explained(loader, cfg), run.device, copied)
    with Phase(f"epoch {run.epoch + 1}", steps, "step", done=run.iter) as phase:
        for batch, waited in batches:
            status.set_status(f"step {run.step + 1}")
            note_bad_videos(cfg, batch, bad_videos)
            seeding.seed_all(cfg.RNG_SEED, run.epoch, run.iter, topology.rank())
            lr = set_lr(run.optimizer, ranks.lr_scale(cfg) * lr_at(cfg.SOLVER, run.epoch + run.samples_seen / videos))
            step = training_step(run, batch["clips"], batch["labels"], mixup)
            run.iter, run.samples_seen = run.iter + 1, run.samples_seen + videos_per_step
            run.meter.add(batch, step, waited)
            run.unread.append(UnreadStep(run.step, step, batch["videos"].clone()))  # not the worker's shared memory
            if run.iter % cfg.LOG_PERIOD == 0 or run.iter == steps:
                note_skipped(run, samples)
                record_steps(run, "train_iter", run.meter.window, steps, lr, recorder)
                run.meter.window = RunningSums()
                phase.line_written()
            if run.iter == steps:
                record_steps(run, "train_epoch", run.meter.epoch, steps, lr, recorder)
                if bad_videos.added > SHOWN:
                    logger.warning("replaced in this epoch: %s", counted(bad_videos.added, "unreadable video"))
            phase.advance()
            save_or_stop(run, samples)
            status.set_status(f"loading the batch of step {run.step + 1}")
    run.epoch, run.iter, run.samples_seen, run.meter, run.meter_state = run.epoch + 1, 0, 0, None, None


def record_steps(run: RunState, split: str, sums: RunningSums, steps: int, lr: float, recorder: Recorder) -> None:
    """Write a row of `sums` in the middle or at the end of an epoch of `steps` steps (collective)."""
    remaining = (run.cfg.SOLVER.MAX_EPOCH - run.epoch) * steps - run.iter
    row = {"split": split, "epoch": run.epoch + 1, "iter": run.iter, "iters": steps, "lr": lr}
    row |= sums.metrics(run.device)
    row |= {"skipped_steps": run.skipped_steps, "memory_mb": memory_mb(run.device)}
    recorder.write(run.step, {**row, "eta_seconds": round(remaining * run.meter.epoch.seconds() / run.iter)})


def save_or_stop(run: RunState, samples: Sequence[annotations.Sample]) -> None:
    """Write a checkpoint where one is due within the epoch, or raise Interrupted after a signal to any rank; on all
    ranks after the same step."""
    settings = run.cfg.TRAIN
    minutes = (time.monotonic() - run.last_save) / 60
    due = topology.is_main() and 0 < settings.CHECKPOINT_MINUTES <= minutes
    stop, due = run.all_reduce_flags(signals.stop_requested(), due)
    due = due or (settings.CHECKPOINT_STEPS > 0 and run.step % settings.CHECKPOINT_STEPS == 0)
    if stop or due:
        note_skipped(run, samples)  # a checkpoint has the counts of all steps before it
    signals.raise_if_any([stop])
    if due:
        run.save()


def note_bad_videos(cfg: CfgNode, batch: dict, bad_videos: BadVideos) -> None:
    """Log the first replaced videos. UserError where no replacement could be read, or too many videos cannot."""
    for video in batch["errors"]:
        if not bad_videos.add(video):
            continue
        if bad_videos.added <= SHOWN:
            logger.warning("replaced by another video: %s", video.cause)
        elif bad_videos.added == SHOWN + 1:
            logger.warning("further videos that are replaced in this epoch are only listed in %s", bad_videos.path)
    if batch["failed"]:
        raise UserError(
            f"{counted(cfg.TRAIN.MAX_BAD_VIDEOS, 'video')} in a row could not be read, the last: "
            f"{batch['errors'][-1].cause}. Check DATA.PATH_PREFIX and the train list; if a disk or mount is away, "
            "start again once it is back"
        )
    bad_videos.check(cfg.DATA.MAX_BAD_FRACTION)


def note_skipped(run: RunState, samples: Sequence[annotations.Sample]) -> None:
    """Count and log the skipped ones of the steps since the last call; waits for the device.

    Raises:
        UserError: TRAIN.MAX_BAD_STEPS of them, or more, were consecutive.
    """
    steps, run.unread = run.unread, []
    if not steps:
        return
    read = torch.stack([torch.stack((r.updated, r.loss, r.norm)) for _, r, _ in steps]).tolist()
    most = 0
    for (number, _, videos), (updated, loss, norm) in zip(steps, read, strict=True):
        if updated:
            run.consecutive_skipped = 0
            continue
        run.consecutive_skipped += 1
        run.skipped_steps += 1
        most = max(most, run.consecutive_skipped)
        paths = [samples[i].path for i in dict.fromkeys(videos.tolist())]
        row = {"step": number, "rank": topology.rank(), "loss": str(loss), "grad_norm": str(norm), "videos": paths}
        append_json_lines(os.path.join(run.cfg.OUTPUT_DIR, "skipped_steps.jsonl"), row)
        shown = ", ".join(paths[:SHOWN])
        more = f" and {len(paths) - SHOWN} more (skipped_steps.jsonl)" if len(paths) > SHOWN else ""
        logger.warning("step %d skipped: loss %g, gradient norm %g; its videos: %s%s", number, loss, norm, shown, more)
    if run.skipped_steps == run.step:
        run.optimizer.state.clear()  # begun by a step that was skipped; there has been no other
    if most >= run.cfg.TRAIN.MAX_BAD_STEPS:
        raise UserError(
            f"stopped at step {run.step}: {counted(most, 'step')} in a row had a loss or gradient "
            "that is not finite. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, or set TRAIN.MIXED_PRECISION "
            "to bf16 or none"
        )


def is_due(period: int, epoch: int, last: int) -> bool:
    """Whether something done every `period` epochs (0: never) is due when `epoch` of `last` are done."""
    return period > 0 and (epoch % period == 0 or epoch == last)


def finish_epoch(run: RunState, val_loader: DataLoader | None, recorder: Recorder, small: bool) -> None:
    """Validate where that is due, write the checkpoint of the epoch and of the best validation, then draw pictures."""
    cfg, best, scores = run.cfg, None, None
    if is_due(cfg.TRAIN.EVAL_PERIOD, run.epoch, cfg.SOLVER.MAX_EPOCH):
        scores, is_best = validate(run, val_loader, recorder)
        best = checkpoints.best_path(cfg.OUTPUT_DIR, run.eval_model is not None) if is_best else None
    run.epochs_finished = run.epoch
    if run.out_of_patience:
        log_early_stop(run)
    periodic = is_due(cfg.TRAIN.CHECKPOINT_PERIOD, run.epoch, cfg.SOLVER.MAX_EPOCH) or run.complete
    if best or periodic:
        run.save(best, periodic)
    if scores and topology.is_main():
        if run.complete and not small:
            outcome = scores.outcome(groups_of(val_loader.dataset.samples))
            log_chance_note(recorder, "validation", cfg, outcome, run.class_names, run.step)
        with recorder.optional("the pictures of a validation"):
            record_evaluation(recorder, "val", scores, run.class_names, run.step)
            show_clips(run, val_loader, scores, recorder)
    if run.complete:
        recorder.validation_summary(run.best_column, run.step)
    shows_projector = cfg.TENSORBOARD.ENABLE and cfg.TENSORBOARD.PROJECTOR and val_loader is not None
    if shows_projector and run.complete:
        with recorder.optional("the projector"):
            show_projector(run, val_loader, recorder)


def validate(run: RunState, loader: DataLoader, recorder: Recorder) -> tuple[VideoAggregator, bool]:
    """Evaluate on the validation list, fit the temperature and write the row.

    Returns:
        The scores, and whether it is the best validation so far by TRAIN.BEST_METRIC.
    """
    scores, errors = evaluate(run.unsharded_eval_model(), loader, run.cfg, "validation")
    metrics = scores.result()
    known = scores.predicted & scores.labelled
    if known.any():
        probabilities, labels = scores.probabilities()[known], scores.labels[known]
        run.temperature = calibration.fit_temperature(probabilities, labels)
        metrics |= {"loss": calibration.loss(probabilities, labels), "temperature": run.temperature}
    if run.best_column == "map" and "map" not in metrics:
        metrics["map"] = scores.mean_average_precision()
    value = metrics.get(run.best_column, math.nan) * (-1 if run.best_column == "loss" else 1)
    is_best = value > run.best_top1
    run.best_top1 = value if is_best else run.best_top1
    run.stale_validations = 0 if is_best else run.stale_validations + 1
    metrics |= {"unreadable_videos": len(errors), "stale_validations": run.stale_validations}
    recorder.write(run.step, {"split": "val_epoch", "epoch": run.epoch, **metrics})
    return scores, is_best


def log_early_stop(run: RunState) -> None:
    """Say why the run ends before SOLVER.MAX_EPOCH."""
    best = abs(run.best_top1) if run.best_column == "loss" else run.best_top1
    logger.info(
        f"TRAIN.PATIENCE {run.cfg.TRAIN.PATIENCE}: training ends after epoch {run.epoch} of "
        f"{run.cfg.SOLVER.MAX_EPOCH}, as {counted(run.stale_validations, 'validation')} in a row had no better "
        f"{run.best_column} than {best:.4g}"
    )


def show_clips(run: RunState, loader: DataLoader, scores: VideoAggregator, recorder: Recorder, count: int = 8) -> None:
    """Draw some validation clips with true and predicted class: of many classes, and each time the same ones."""
    if not recorder.tensorboard or not scores.predicted.any():
        return
    samples, seen, ranked = loader.dataset.samples, Counter(), []
    for video in random.Random(0).sample(range(len(samples)), len(samples)):
        if scores.predicted[video]:
            labels = tuple(samples[video].labels)
            ranked.append((seen[labels], video))
            seen[labels] += 1
    chosen = sorted(video for _, video in sorted(ranked, key=itemgetter(0))[:count])
    probability, best = scores.probabilities().max(dim=1)
    clips, captions = [], []
    for video in chosen:
        clips.append(to_display(to_device(loader.dataset[0, video]["clips"], run.device)[0], run.cfg))
        captions.append((label_names(run, loader, video), run.class_name(int(best[video])), float(probability[video])))
    recorder.clips("val", clips, captions, run.step)


def show_projector(run: RunState, loader: DataLoader, recorder: Recorder, most: int = 2000) -> None:
    """Show the features of validation clips in TensorBoard's projector."""
    net = run.unsharded_eval_model()
    if not hasattr(net, "forward_features"):  # one's own model may lack it
        logger.warning("TENSORBOARD.PROJECTOR: %s has no forward_features", run.cfg.MODEL.MODEL_NAME)
        return
    if found := features(net, loader, run.cfg, most):
        videos, rows, pictures = zip(*found, strict=True)
        names = [label_names(run, loader, video) for video in videos]
        recorder.embedding("val", torch.stack(rows), names, torch.stack(pictures), run.step)


def label_names(run: RunState, loader: DataLoader, video: int) -> str:
    """The true classes of a video, separated by commas."""
    return ", ".join(map(run.class_name, loader.dataset.samples[video].labels))


def model_summary(run: RunState) -> str:
    parameters = sum(p.numel() for p in run.net.parameters()) / 1e6
    trained = sum(p.numel() for p in run.net.parameters() if p.requires_grad) / 1e6
    return f"{run.cfg.MODEL.MODEL_NAME}: {parameters:.2f} M parameters ({trained:.2f} M trained)"


def log_run_summary(run: RunState, loader: DataLoader) -> None:
    """Log what is about to be trained, with the global batch and learning rate that really apply."""
    cfg, ranks = run.cfg, topology.current()
    logger.info(
        f"{model_summary(run)} on {run.device}, "
        f"{counted(ranks.ranks, 'process')} on {counted(ranks.machines, 'machine')}"
    )
    epochs = cfg.SOLVER.MAX_EPOCH
    if run.complete:
        early = f" of {epochs}, and TRAIN.PATIENCE ends it there" if run.epochs_finished < epochs else ""
        line = f"training is complete: {counted(run.epochs_finished, 'epoch')} done{early}"
        logger.info("%s", line, extra={EPOCH_LINE: line})
        return
    which = f"epochs {run.epoch + 1} to {epochs}" if run.epoch + 1 < epochs else f"epoch {epochs}"
    logger.info(
        f"training on {counted(len(loader.dataset), 'video')}: {counted(len(loader), 'step')} an epoch, {which}; "
        f"global batch {counted(ranks.videos_per_step(cfg), 'video')} ({counted(ranks.clips_per_step(cfg), 'clip')}), "
        f"learning rate {ranks.describe_learning_rate(cfg)}"
    )
    if note := fp32_note(cfg, run.device):
        logger.info("%s", note)
