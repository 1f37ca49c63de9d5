"""Evaluation: one loop for validation (a view of each video) and for the multi-view test."""

import csv
import logging
import math
import os
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from slowfast_uniformer import checkpoint, distributed, interrupt
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.faults import guarded
from slowfast_uniformer.data.loader import Loader, build_loader
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.log import Log, progress
from slowfast_uniformer.models import build_model, weights

logger = logging.getLogger(__name__)
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(cfg: CfgNode, device: torch.device) -> torch.autocast:
    """The mixed-precision region of TRAIN.MIXED_PRECISION, for training and evaluation alike."""
    dtype = AMP_DTYPES[cfg.TRAIN.MIXED_PRECISION]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@torch.inference_mode()
def evaluate(
    model: nn.Module, loader: DataLoader, cfg: CfgNode, title: str
) -> tuple[VideoAggregator, list[str]]:
    """Score every view of every video. Returns all ranks' scores and errors, on every rank.

    `model` is the bare module: no collective runs in its forward pass, so ranks may have different numbers of
    batches.
    """
    model.eval()
    if cfg.TRAIN.MIXED_PRECISION == "none" and hasattr(model, "fuse"):  # lower ones would round otherwise
        model = model.fuse()
    device = distributed.device(cfg)
    clips_at_once = max(1, cfg.TEST.BATCH_SIZE // distributed.local_size())
    dataset = loader.dataset
    scores = VideoAggregator(
        len(dataset), cfg.MODEL.NUM_CLASSES, dataset.views, cfg.DATA.ENSEMBLE_METHOD, cfg.TEST.ADD_SOFTMAX,
        cfg.DATA.MULTI_LABEL,
    )  # fmt: skip
    errors: list[str] = []
    for batch in progress(guarded(loader, cfg), len(loader), title):
        for video, label in batch["failed"]:
            scores.fail(video, label)
        errors += [cause for _, cause in batch["errors"]]
        if batch["clips"] is None:
            continue
        with autocast(cfg, device):
            parts = [
                model(part.to(device, non_blocking=True)) for part in batch["clips"].split(clips_at_once)
            ]
        scores.update(torch.cat(parts).float(), batch["videos"], batch["views"], batch["labels"])
        if interrupt.asked():
            break
        distributed.doing(f"loading for {title}")
    if any(distributed.gather(interrupt.asked())):  # also where this rank was through already
        raise interrupt.Interrupted("a signal has come")
    for error in errors:
        logger.warning("not answered: %s", error)
    scores.merge(distributed.gather(scores.state()))
    return scores, sum(distributed.gather(errors), [])


@torch.inference_mode()
def features(
    model: nn.Module, loader: DataLoader, cfg: CfgNode, most: int, side: int = 64
) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """Of at most `most` videos, spread over the list: number, what the classifier of the bare `model` reads
    (C,), and the middle frame (3, side, side), 0 to 1. Collective. A video that cannot be read is left out,
    and where a signal has come, the rest."""
    model.eval()
    dataset, device = loader.dataset, distributed.device(cfg)
    chosen = range(0, len(dataset), math.ceil(len(dataset) / most))
    part = Loader(
        dataset,
        loader.batch_size,
        sampler=[(0, video) for video in chosen[distributed.rank() :: distributed.world_size()]],
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        timeout=loader.timeout,
    )
    found: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    for batch in guarded(part, cfg):
        if interrupt.asked():
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
    return sum(distributed.gather(found), [])


def weights_to_test(cfg: CfgNode) -> str:
    """The weights to test: TEST.CHECKPOINT_FILE_PATH, else this run's best or last, else INIT_FROM."""
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return cfg.TEST.CHECKPOINT_FILE_PATH
    best = checkpoint.best(cfg.OUTPUT_DIR) if cfg.TEST.TEST_BEST else None
    own = best or distributed.from_main(checkpoint.newest(cfg.OUTPUT_DIR) if distributed.is_main() else None)
    if not own and not cfg.MODEL.INIT_FROM:
        raise UserError(
            f"nothing to test: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint. Set "
            "TEST.CHECKPOINT_FILE_PATH to one, MODEL.INIT_FROM to weights, or TRAIN.ENABLE True to train"
        )
    return own or cfg.MODEL.INIT_FROM


def same_classes(theirs: list[str] | None, ours: list[str] | None, path: str) -> None:
    """Refuse weights whose class names differ from the data's: every answer would carry the wrong name."""
    if theirs and ours and list(theirs) != list(ours):
        at = next(
            (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b),
            min(len(theirs), len(ours)),
        )
        raise UserError(
            f"{path}: its class names differ from the data's, first at label {at}. Give the lists the "
            "checkpoint's order of classes, or correct DATA.CLASS_NAMES"
        )


def test(cfg: CfgNode) -> dict[str, Any]:
    """Multi-view test of a checkpoint. Writes predictions.csv and a `test_final` row; returns the figures.
    Where the list lacks labels, there are no accuracies but a submission.csv.

    Raises UserError after writing the results when videos could not be read and coverage is below
    TEST.MIN_COVERAGE.
    """
    log = Log(cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, distributed.rank(), cfg.TRACKER)
    names = annotations.class_names(cfg)
    loader = build_loader(cfg, "test")
    path = weights_to_test(cfg)
    given = weights.read(path)
    model = build_model(cfg, given.arithmetic)
    fresh = cfg.MODEL.INIT_HEAD in ("new", "probe")
    head = cfg.MODEL.INIT_HEAD if path == cfg.MODEL.INIT_FROM and not fresh else "keep"
    report = weights.load_weights(model, given, init_head=head, class_names=names, source=path)
    logger.info("%s", report)
    if not cfg.TRAIN.ENABLE:
        log.config(cfg)
    logger.info("testing %s on %d videos, %d views each", path, len(loader.dataset), loader.dataset.views)
    scores, errors = evaluate(model.to(distributed.device(cfg)), loader, cfg, "test")
    samples, step = loader.dataset.samples, given.about.get("step", 0)
    labelled = all(sample.label != annotations.UNLABELLED for sample in samples)
    figures = scores.result() if labelled else scores.counts()
    if distributed.is_main():
        write_predictions(os.path.join(cfg.OUTPUT_DIR, "predictions.csv"), samples, scores, names)
        log.write(step, {"split": "test_final", **figures, "checkpoint": path})
        if labelled:
            log.evaluation("test", scores, names, step)
        else:
            write_submission(os.path.join(cfg.OUTPUT_DIR, "submission.csv"), samples, scores, names)
    log.close()
    distributed.barrier()  # a rank that ends with an error would end the one that writes
    if figures["coverage"] < cfg.TEST.MIN_COVERAGE:
        raise UserError(
            f"{len(errors)} of {len(loader.dataset)} videos could not be read and count as not answered, the "
            f"first: {errors[0]}. The results are written; repair the list, or accept them with "
            f"TEST.MIN_COVERAGE {math.floor(figures['coverage'])}"
        )
    return figures


def write_predictions(
    path: str, samples: list[annotations.Sample], scores: VideoAggregator, names: list[str] | None
) -> None:
    """One row a video: path, label, prediction, correctness, the five most probable classes.

    A video that was not answered has empty predictions. With several labels a video, `label` holds all,
    `correct` says whether the most probable class is one of them, and every class's probability follows.
    """
    probabilities = scores.probabilities()
    count = min(5, probabilities.shape[1])
    top = probabilities.topk(count, dim=1)
    name = (lambda label: names[label]) if names else str
    head = ["video", "label", "label_name", "prediction", "prediction_name", "correct", "probability"]
    head += [f"top{k}_{what}" for k in range(1, count + 1) for what in ("name", "probability")]
    classes = range(probabilities.shape[1]) if scores.multi_label else ()
    head += [f"probability of {name(label)}" for label in classes]
    with open(path + ".tmp", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(head)
        for i, sample in enumerate(samples):
            true = sample.labels
            row: list[Any] = [sample.path, ",".join(map(str, true)), "; ".join(map(name, true))]
            if scores.answered[i]:
                best = int(top.indices[i, 0])
                row += [best, name(best), int(best in true) if true else "", f"{top.values[i, 0]:.6f}"]
                for label, probability in zip(top.indices[i].tolist(), top.values[i].tolist(), strict=True):
                    row += [name(label), f"{probability:.6f}"]
                row += [f"{probabilities[i, label]:.6f}" for label in classes]
            else:
                row += [""] * (len(head) - len(row))
            rows.writerow(row)
    os.replace(path + ".tmp", path)


def write_submission(
    path: str, samples: list[annotations.Sample], scores: VideoAggregator, names: list[str] | None
) -> None:
    """What Something-Something's evaluation asks for: a line a video, its id (the file name without ending)
    and the five most probable classes by name, separated by semicolons."""
    best = scores.scores.topk(min(5, scores.scores.shape[1]), dim=1).indices.tolist()
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        for sample, labels in zip(samples, best, strict=True):
            video = os.path.splitext(os.path.basename(sample.path))[0]
            file.write(";".join([video, *(names[k] if names else str(k) for k in labels)]) + "\n")
    os.replace(path + ".tmp", path)
