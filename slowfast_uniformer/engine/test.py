"""Evaluation: one loop for validation (a view of each video) and for the multi-view test."""

import logging
import math
import os
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.loader import Loader, build_loader
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import collectives, signals, status, topology
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.log import progress
from slowfast_uniformer.runs.predictions import write_predictions, write_submission
from slowfast_uniformer.runs.recorder import Recorder
from slowfast_uniformer.weights.load import load_weights, read_weights

logger = logging.getLogger(__name__)


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader, cfg: CfgNode, title: str) -> tuple[VideoAggregator, list[str]]:
    """Score every view of every video. Returns all ranks' scores and errors, on every rank.

    `model` is the bare module: no collective runs in its forward pass, so ranks may have different numbers of
    batches.
    """
    model.eval()
    if cfg.TRAIN.MIXED_PRECISION == "none" and hasattr(model, "fuse"):  # lower ones would round otherwise
        model = model.fuse()
    device = topology.device(cfg)
    clips_at_once = max(1, cfg.TEST.BATCH_SIZE // topology.local_world_size())
    dataset = loader.dataset
    scores = VideoAggregator(
        len(dataset),
        cfg.MODEL.NUM_CLASSES,
        dataset.views,
        cfg.DATA.ENSEMBLE_METHOD,
        cfg.TEST.ADD_SOFTMAX,
        cfg.DATA.MULTI_LABEL,
    )
    errors: list[str] = []
    for batch in progress(worker_errors_explained(loader, cfg), len(loader), title):
        for video, label in batch["failed"]:
            scores.fail(video, label)
        errors += [cause for _, cause in batch["errors"]]
        if batch["clips"] is None:
            continue
        with autocast(cfg, device):
            parts = [model(part.to(device, non_blocking=True)) for part in batch["clips"].split(clips_at_once)]
        scores.update(torch.cat(parts).float(), batch["videos"], batch["views"], batch["labels"])
        if signals.stop_requested():
            break
        status.set_status(f"loading for {title}")
    if any(collectives.all_gather_objects(signals.stop_requested())):  # also where this rank was through already
        raise signals.Interrupted("a signal has come")
    for error in errors:
        logger.warning("not answered: %s", error)
    scores.merge(collectives.all_gather_objects(scores.state()))
    return scores, sum(collectives.all_gather_objects(errors), [])


@torch.inference_mode()
def features(
    model: nn.Module, loader: DataLoader, cfg: CfgNode, most: int, side: int = 64
) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """Of at most `most` videos, spread over the list: number, what the classifier of the bare `model` reads
    (C,), and the middle frame (3, side, side), 0 to 1. Collective. A video that cannot be read is left out,
    and where a signal has come, the rest."""
    model.eval()
    dataset, device = loader.dataset, topology.device(cfg)
    chosen = range(0, len(dataset), math.ceil(len(dataset) / most))
    part = Loader(
        dataset,
        loader.batch_size,
        sampler=[(0, video) for video in chosen[topology.rank() :: topology.world_size()]],
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        timeout=loader.timeout,
    )
    found: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    for batch in worker_errors_explained(part, cfg):
        if signals.stop_requested():
            break
        if batch["clips"] is None:
            continue
        with autocast(cfg, device):
            rows = model.forward_features(batch["clips"].to(device)).float().cpu()
        middle = cfg.DATA.NUM_FRAMES // 2
        frames = torch.stack([to_display(clip, cfg)[middle] for clip in batch["clips"]])
        frames = frames.permute(0, 3, 1, 2).float() / 255
        pictures = nn.functional.interpolate(frames, (side, side), mode="bilinear", antialias=True)
        found += zip(batch["videos"].tolist(), rows, pictures, strict=True)
    return sum(collectives.all_gather_objects(found), [])


def checkpoint_to_test(cfg: CfgNode) -> str:
    """The weights to test: TEST.CHECKPOINT_FILE_PATH, else this run's best or last, else INIT_FROM."""
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return cfg.TEST.CHECKPOINT_FILE_PATH
    best = checkpoints.find_best(cfg.OUTPUT_DIR) if cfg.TEST.TEST_BEST else None
    own = best or collectives.broadcast_object(checkpoints.latest(cfg.OUTPUT_DIR) if topology.is_main() else None)
    if not own and not cfg.MODEL.INIT_FROM:
        raise UserError(
            f"nothing to test: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint. Set "
            "TEST.CHECKPOINT_FILE_PATH to one, MODEL.INIT_FROM to weights, or TRAIN.ENABLE True to train"
        )
    return own or cfg.MODEL.INIT_FROM


def test(cfg: CfgNode) -> dict[str, Any]:
    """Multi-view test of a checkpoint. Writes predictions.csv and a `test_final` row; returns the figures.
    Where the list lacks labels, there are no accuracies but a submission.csv.

    Raises UserError after writing the results when videos could not be read and coverage is below
    TEST.MIN_COVERAGE.
    """
    log = Recorder(cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, topology.rank(), cfg.TRACKER)
    names = annotations.class_names(cfg)
    loader = build_loader(cfg, "test")
    path = checkpoint_to_test(cfg)
    given = read_weights(path)
    model = build_model(cfg, given.arithmetic)
    fresh = cfg.MODEL.INIT_HEAD in ("new", "probe")
    head = cfg.MODEL.INIT_HEAD if path == cfg.MODEL.INIT_FROM and not fresh else "keep"
    report = load_weights(model, given, init_head=head, class_names=names, source=path)
    logger.info("%s", report)
    if not cfg.TRAIN.ENABLE:
        log.config(cfg)
    logger.info("testing %s on %d videos, %d views each", path, len(loader.dataset), loader.dataset.views)
    scores, errors = evaluate(model.to(topology.device(cfg)), loader, cfg, "test")
    samples, step = loader.dataset.samples, given.about.get("step", 0)
    labelled = all(sample.label != annotations.UNLABELLED for sample in samples)
    figures = scores.result() if labelled else scores.counts()
    if topology.is_main():
        write_predictions(os.path.join(cfg.OUTPUT_DIR, "predictions.csv"), samples, scores, names)
        log.write(step, {"split": "test_final", **figures, "checkpoint": path})
        if labelled:
            log.evaluation("test", scores, names, step)
        else:
            write_submission(os.path.join(cfg.OUTPUT_DIR, "submission.csv"), samples, scores, names)
    log.close()
    collectives.barrier()  # a rank that ends with an error would end the one that writes
    if figures["coverage"] < cfg.TEST.MIN_COVERAGE:
        raise UserError(
            f"{len(errors)} of {len(loader.dataset)} videos could not be read and count as not answered, the "
            f"first: {errors[0]}. The results are written; repair the list, or accept them with "
            f"TEST.MIN_COVERAGE {math.floor(figures['coverage'])}"
        )
    return figures
