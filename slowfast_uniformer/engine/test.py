"""Evaluation: one loop for validation (one view of each video) and for the multi-view test."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.list_notes import half_labelled
from slowfast_uniformer.data.loader import build_loader, loader_of
from slowfast_uniformer.data.raw_clips import to_device
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import collectives, signals, status, topology
from slowfast_uniformer.engine import calibration
from slowfast_uniformer.engine.chance import log_chance_note
from slowfast_uniformer.engine.intervals import few_units, intervals, num_units
from slowfast_uniformer.engine.metrics import VideoAggregator, confusion_matrix, per_class_accuracy
from slowfast_uniformer.engine.published import match_classes, published_row
from slowfast_uniformer.engine.scores import (
    Outcome,
    class_counts,
    class_scores,
    every_video_once,
    mean_average_precision,
)
from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.runs.predictions import write_class_scores, write_predictions, write_submission
from slowfast_uniformer.runs.recorder import Recorder
from slowfast_uniformer.weights.load import Weights, load_weights, read_weights
from slowfast_uniformer.weights.registry import find_checkpoint
from slowfast_uniformer.weights.resolve import Found, resolve
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)
SHOWN = 3  # unreadable videos that are named in the log; the others are counted
MAX_PR_CLASSES = 20  # precision-recall curves are drawn for at most this many classes


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader, cfg: CfgNode, title: str) -> tuple[VideoAggregator, list[str]]:
    """Score every view of every video (collective).

    Args:
        model: the bare module. No collective runs in its forward pass, so ranks may have different numbers of batches.
        loader: of one split, without shuffling.
        title: of the progress bar.

    Returns:
        The scores and the causes of unreadable videos, of all ranks on every rank.

    Raises:
        Interrupted: on every rank, after a signal to any.
    """
    model.eval()
    if cfg.TRAIN.MIXED_PRECISION == "none" and hasattr(model, "fuse"):  # lower precisions would round differently
        model = model.fuse()
    device, dataset = topology.device(cfg), loader.dataset
    clips_per_forward = topology.current().test_clips_per_rank(cfg)
    aggregation = cfg.DATA.ENSEMBLE_METHOD, cfg.TEST.ADD_SOFTMAX, cfg.DATA.MULTI_LABEL
    scores = VideoAggregator(len(dataset), cfg.MODEL.NUM_CLASSES, dataset.views, *aggregation)
    errors: list[str] = []
    with Phase(title, len(dataset), "video") as phase:
        for batch in worker_errors_explained(loader, cfg):
            phase.advance(loader.batch_size * topology.world_size())
            for video, label in batch["failed"]:
                scores.fail(video, label)
            errors += [video.cause for video in batch["errors"]]
            if batch["clips"] is None:
                continue
            chunks = to_device(batch["clips"], device).split(clips_per_forward)
            with autocast(cfg, device):
                logits = [model(clips) for clips in chunks]
            scores.update(torch.cat(logits).float(), batch["videos"], batch["views"], batch["labels"])
            if signals.stop_requested():
                break
            status.set_status(f"loading for {title}")
    signals.raise_if_any(collectives.all_gather_objects(signals.stop_requested()))  # also where this rank was done
    for error in errors[:SHOWN]:
        logger.warning("no prediction: %s", error)
    if len(errors) > SHOWN:
        logger.warning("no prediction: %s", counted(len(errors) - SHOWN, "more video"))
    scores.merge(collectives.all_gather_objects(scores.state()))
    return scores, sum(collectives.all_gather_objects(errors), [])


@torch.inference_mode()
def features(
    model: nn.Module, loader: DataLoader, cfg: CfgNode, most: int, side: int = 64
) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """The features that the classifier reads, of at most `most` videos, spread over the list (collective).

    Returns:
        Of each video its number, features (C,), and the middle frame (3, side, side), 0 to 1. A video that cannot be
        read is left out, and after a signal the rest.

    Raises:
        UserError: on every rank, whatever failed on any.
    """
    found: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    fault = ""
    try:
        found = list(_own_features(model, loader, cfg, most, side))
    except Exception as error:  # this rank must not leave the others in the collective
        fault = f"{type(error).__name__}: {error}"
    of_ranks = collectives.all_gather_objects((found, fault))
    if faults := [fault for _, fault in of_ranks if fault]:
        raise UserError(f"features of the validation clips: {faults[0]}")
    return sum((rows for rows, _ in of_ranks), [])


def _own_features(
    model: nn.Module, loader: DataLoader, cfg: CfgNode, most: int, side: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """This rank's part of `features`."""
    model.eval()
    dataset, device = loader.dataset, topology.device(cfg)
    chosen = range(0, len(dataset), math.ceil(len(dataset) / most))
    own = [(0, video) for video in chosen[topology.rank() :: topology.world_size()]]
    batches = worker_errors_explained(loader_of(dataset, own, loader.batch_size), cfg)
    with Phase("features for the projector", len(own), "video") as phase:
        for batch in batches:
            phase.advance(loader.batch_size)
            if signals.stop_requested():
                break
            if batch["clips"] is None:
                continue
            clips = to_device(batch["clips"], device)
            with autocast(cfg, device):
                rows = model.forward_features(clips).float().cpu()
            middle = cfg.DATA.NUM_FRAMES // 2
            frames = torch.stack([to_display(clip, cfg)[middle] for clip in clips])
            frames = frames.permute(0, 3, 1, 2).float() / 255
            pictures = nn.functional.interpolate(frames, (side, side), mode="bilinear", antialias=True)
            yield from zip(batch["videos"].tolist(), rows, pictures, strict=True)


def record_evaluation(
    recorder: Recorder, section: str, scores: VideoAggregator, names: Sequence[str] | None, step: int
) -> None:
    """Draw an evaluation in TensorBoard: precision-recall curves if there are few classes; and where a video has one
    label, confusion matrix and per-class accuracy.

    Args:
        section: "val" or "test".
        names: of the classes, in label order.
    """
    if not recorder.tensorboard:
        return
    probabilities = scores.probabilities() * scores.predicted[:, None]
    num_classes = probabilities.shape[1]
    for label in range(num_classes) if num_classes <= MAX_PR_CLASSES else ():
        truth = scores.labels[:, label] > 0 if scores.multi_label else scores.labels == label
        if truth.any():
            name = f"{label} {names[label]}" if names else str(label)
            recorder.pr_curve(section, name, truth.numpy(), probabilities[:, label].numpy(), step)
    if not scores.multi_label:
        matrix = confusion_matrix(scores.predictions, scores.labels, num_classes)
        recorder.confusion(section, matrix.numpy(), names, step)
        recorder.per_class(section, per_class_accuracy(matrix).numpy(), names, step)


def groups_of(samples: SampleList) -> list[str] | None:
    """The group of each video, None in a list without groups."""
    return [sample.group for sample in samples] if samples.has_groups else None


def checkpoint_to_test(cfg: CfgNode) -> str:
    """The weights to test: TEST.CHECKPOINT_FILE_PATH (of a run's folder the checkpoint that its own test takes), else
    the run's best (TEST.TEST_BEST) or latest, else MODEL.INIT_FROM."""
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return checkpoints.find_checkpoint(cfg.TEST.CHECKPOINT_FILE_PATH)
    own = checkpoints.find_tested(cfg.OUTPUT_DIR, cfg.TEST.TEST_BEST)
    path = own or cfg.MODEL.INIT_FROM
    published = find_checkpoint(path) if path and not os.path.exists(path) else None
    if not path or (published and not published.recipes):  # an image model has other classes
        raise UserError(
            f"nothing to test: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint. Set TEST.CHECKPOINT_FILE_PATH to one "
            "or to a published one (uniformer weights list), MODEL.INIT_FROM to weights, or train first (uniformer "
            "train)"
        )
    if cfg.TEST.TEST_BEST and own and own != checkpoints.find_best(cfg.OUTPUT_DIR):
        logger.warning(
            "TEST.TEST_BEST: the run has no best checkpoint, as it was not validated (TRAIN.EVAL_PERIOD 0), or was "
            "never better than before it was continued; the latest is tested"
        )
    return path


def _load(cfg: CfgNode, path: str, names: Sequence[str] | None) -> tuple[nn.Module, Found, Weights, str]:
    """The model with the weights to test, what they are, and for published ones what is said of their class order.

    Args:
        path: as `checkpoint_to_test` returns it.
        names: of the data's classes, in label order.
    """
    found = resolve(path)
    weights, class_order = read_weights(found.path), ""
    fresh = cfg.MODEL.INIT_HEAD in ("new", "probe")
    head = cfg.MODEL.INIT_HEAD if path == cfg.MODEL.INIT_FROM and not fresh else "keep"
    if found.checkpoint:
        theirs, class_order = match_classes(found, cfg, names, weights.class_names, head)
        weights.metadata["class_names"] = theirs
        logger.info("order of classes: %s", class_order)
    model = build_model(cfg, weights.vit_variant)
    remedy = (
        "Test it with the classes that it was trained with (MODEL.NUM_CLASSES, DATA.CLASS_NAMES), or say which of its "
        f"classes yours are: MODEL.INIT_FROM {path} TEST.CHECKPOINT_FILE_PATH {path} MODEL.INIT_HEAD map:FILE. A new "
        "classifier has to be trained first"
    )
    summary = load_weights(model, weights, init_head=head, class_names=names, source=path, head_remedy=remedy)
    logger.info("%s", summary)
    return model, found, weights, class_order


def further_figures(scores: VideoAggregator, outcome: Outcome, temperature: float, seed: int) -> dict[str, Any]:
    """What the test says besides `VideoAggregator.result`: `map` (also where a video has one label, then of each class
    against the others), `ece`, the expected calibration error at the temperature, and of each figure the 95 % interval
    as `..._low` and `..._high`, of resamples of `num_units` videos or groups."""
    found: dict[str, Any] = {"map": mean_average_precision(outcome)}
    known = scores.predicted & scores.labelled
    if known.any():
        found["ece"] = calibration.calibration_error(scores.probabilities(temperature)[known], scores.labels[known])
    found["temperature"] = temperature
    with Phase("95 % intervals"):
        for name, (low, high) in intervals(outcome, seed).items():
            found |= {f"{name}_low": low, f"{name}_high": high}
    found |= {"num_groups": num_units(outcome)} if outcome.groups is not None else {}
    if note := few_units(outcome):
        logger.warning("%s", note)
    return found


def note_absent_classes(outcome: Outcome, names: Sequence[str] | None) -> None:
    """Name the classes without test videos: means over classes leave them out."""
    counts = class_counts(outcome, every_video_once(outcome))
    absent = [names[label] if names else str(label) for label in (counts.support[:, 0] == 0).nonzero()[0]]
    if absent:
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        logger.warning(
            f"no test video of {counted(len(absent), 'class')}: {', '.join(absent[:SHOWN])}{more}; means over classes "
            "leave out what has no video"
        )


def test(cfg: CfgNode, small: bool = False) -> dict[str, Any]:
    """Multi-view test of a checkpoint (collective).

    Writes predictions.csv, class_scores.csv and a `test_final` row; where videos have no label submission.csv, too.
    Metrics are of those that have one.

    Returns:
        The metrics: see `VideoAggregator.result`; `further_figures`; `doubt`, where they can hardly be right; of a
        published checkpoint also `published_row`.

    Raises:
        UserError: after the results are written, when `coverage` is below TEST.MIN_COVERAGE.
    """
    recorder = Recorder(cfg.OUTPUT_DIR, cfg.TENSORBOARD.ENABLE, topology.rank(), cfg.TRACKER)
    names = annotations.class_names(cfg)
    loader = build_loader(cfg, "test")
    path = collectives.call_on_main(checkpoint_to_test, cfg)
    model, found, weights, class_order = _load(cfg, path, names)
    temperature = calibration.temperature_of(cfg, weights.metadata, path)
    if not cfg.TRAIN.ENABLE:
        recorder.config(cfg)
    videos, views = counted(len(loader.dataset), "video"), counted(loader.dataset.views, "view")
    logger.info("testing %s on %s, %s each", path, videos, views)
    scores, errors = evaluate(model.to(topology.device(cfg)), loader, cfg, "test")
    samples, step = loader.dataset.samples, weights.metadata.get("step", 0)
    labelled = samples.num_labelled
    metrics = scores.result(labelled) if labelled else scores.counts()
    if half := half_labelled(samples):
        logger.warning("%s", half)
        metrics["num_labelled"] = labelled
    if found.checkpoint:
        metrics |= published_row(found, cfg, samples, names, metrics, class_order)
        if "doubt" in metrics:
            logger.warning("%s", metrics["doubt"])
    if topology.is_main():
        outcome, probabilities = scores.outcome(groups_of(samples)), scores.probabilities(temperature)
        if labelled:
            metrics |= further_figures(scores, outcome, temperature, cfg.RNG_SEED)
            note_absent_classes(outcome, names)
            if "doubt" not in metrics and not small:
                note = log_chance_note(recorder, "test", cfg, outcome, names, weights.metadata.get("step"), path)
                metrics |= {"doubt": note} if note else {}
            write_class_scores(os.path.join(cfg.OUTPUT_DIR, "class_scores.csv"), class_scores(outcome), names)
        out = os.path.join(cfg.OUTPUT_DIR, "predictions.csv")
        write_predictions(out, samples, probabilities, scores.predicted, names, scores.multi_label)
        views = f"{cfg.TEST.NUM_ENSEMBLE_VIEWS} x {cfg.TEST.NUM_SPATIAL_CROPS}"  # clips x crops
        recorder.write(step, {"split": "test_final", **metrics, "views": views, "checkpoint": path})
        if labelled < len(samples):
            write_submission(os.path.join(cfg.OUTPUT_DIR, "submission.csv"), samples, scores.scores, names)
        if labelled:
            with recorder.optional("the pictures of the test"):
                record_evaluation(recorder, "test", scores, names, step)
    recorder.close()
    # Other ranks wait for rank 0: one that exits with an error would end it while it writes.
    metrics = collectives.broadcast_object(metrics)
    if metrics["coverage"] < cfg.TEST.MIN_COVERAGE:
        raise UserError(
            f"{len(errors)} of {counted(len(loader.dataset), 'video')} could not be read and have no prediction, the "
            f"first: {errors[0]}. The results are written; repair the list, or accept them with "
            f"TEST.MIN_COVERAGE {math.floor(metrics['coverage'])}"
        )
    return metrics
