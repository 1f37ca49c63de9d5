"""Pictures of training clips as the model gets them: after augmentation, and mixed."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from slowfast_uniformer import paths
from slowfast_uniformer.config.load import variant
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.class_balance import draws
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import EpochSampler
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.data.transforms import to_display
from slowfast_uniformer.data.video import VideoSource
from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.runs.figures import SheetClip, draw_sheet
from slowfast_uniformer.runs.folder import PREVIEWS
from slowfast_uniformer.seeding import seeded
from slowfast_uniformer.wording import counted

MIXED = 4  # clips that are mixed with each other; a batch, as in training, would have a single draw for all


class _PreviewDataset(VideoDataset):
    """The train list; keeps of which frames of which video the last clip was made."""

    numbers: np.ndarray
    total: int
    fps: float

    def indices(self, video: VideoSource, *arguments: Any, **options: Any) -> np.ndarray:
        self.numbers = super().indices(video, *arguments, **options)
        self.total, self.fps = video.frames, video.fps
        return self.numbers


def preview(cfg: CfgNode, count: int = 4) -> Image.Image:
    """Draw the first training clips of epoch 1 as the model gets them, before they are mixed.

    A clip is the first of its video where AUG.NUM_SAMPLE takes several. As in training, a video that cannot be read is
    replaced by another one. Lines of the list that are wrong are left out.

    Args:
        cfg: A config of `load_config`.
        count: Number of clips, at most.

    Returns:
        A contact sheet: for each clip its class, its video, a bar with the chosen frames, and at most 8 of them.

    Raises:
        UserError: No clip can be read.
    """
    return Image.fromarray(_pages(variant(cfg, ["MIXUP.ENABLE", False]), count)[0])


def write_preview(cfg: CfgNode, count: int) -> list[str]:
    """Write `preview` and, with mixup, a sheet of mixed clips into OUTPUT_DIR (`PREVIEWS`).

    Returns:
        The files.

    Raises:
        UserError: No clip can be read, or OUTPUT_DIR cannot be written to.
    """
    return _write(cfg.OUTPUT_DIR, _pages(cfg, count))


def _pages(cfg: CfgNode, count: int) -> list[np.ndarray]:
    """Contact sheets (H, W, 3) uint8 of the first clips and, with mixup, of these mixed."""
    cfg = variant(cfg, ["NUM_GPUS", 0, "AUG.DEVICE", "cpu"])  # clips are made in this process
    samples = SampleList.of(row for _, row in annotations.read_rows(cfg, "train") if not isinstance(row, UserError))
    dataset = _PreviewDataset(cfg, "train", samples)
    names = annotations.class_names(cfg) or list(map(str, range(cfg.MODEL.NUM_CLASSES)))
    clips, targets, sheet, cause = [], [], [], "the list is empty"
    sampler = EpochSampler(len(dataset), shuffle=True, seed=cfg.RNG_SEED, draws=draws(cfg, samples))
    for key in islice(sampler, count):
        item = dataset[key]
        if item["clips"] is None:
            cause = item["errors"][-1].cause
            continue
        clips.append(item["clips"][0])
        targets.append(item["targets"][0])
        classes = _separated([names[label] for label in _labels(targets[-1])] or ["no class"], ", ")
        note = _note(dataset, samples[item["video"]].path)
        sheet.append(SheetClip(to_display(clips[-1], cfg), classes, note, dataset.numbers, dataset.total))
    if not sheet:
        raise UserError(f"no preview: no training clip can be read ({cause})")
    pages = [draw_sheet(sheet)]
    if cfg.MIXUP.ENABLE:
        pages.append(draw_sheet(_mixed(cfg, torch.stack(clips), torch.stack(targets), sheet, names)))
    return pages


def _labels(target: torch.Tensor) -> list[int]:
    """The classes of a target: a class index, or a multi-hot vector (K,)."""
    return [int(target)] if target.ndim == 0 else target.nonzero().flatten().tolist()


def _separated(names: Sequence[str], separator: str, values: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Names, each with its value and the separator before the next one."""
    ends = [value + separator for value in values or [""] * len(names)]
    ends[-1] = ends[-1].removesuffix(separator)
    return list(zip(names, ends, strict=True))


def _note(dataset: _PreviewDataset, path: str) -> str:
    """A video and its length."""
    length = counted(dataset.total, "frame")
    return f"{_name(path)}: {length}" + (f", {dataset.total / dataset.fps:.3g} s" if dataset.fps else "")


def _name(path: str) -> str:
    """The name of a video with that of its folder."""
    return os.path.join(*path.split(os.sep)[-2:])


def _mixed(
    cfg: CfgNode, clips: torch.Tensor, labels: torch.Tensor, sheet: Sequence[SheetClip], names: Sequence[str]
) -> list[SheetClip]:
    """Clips (N, 3, T, H, W) mixed within groups, with their soft targets as titles."""
    mixup, found = Mixup(cfg), []
    certain = cfg.MIXUP.LABEL_SMOOTH_VALUE / len(names) + 1e-6  # what every class has by label smoothing
    for start in range(0, len(clips), MIXED):
        group = slice(start, start + MIXED)
        with seeded(cfg.RNG_SEED, start):
            mixed, targets = mixup(clips[group], labels[group])
        of_group = sheet[group]
        for clip, target, own, other in zip(mixed, targets, of_group, of_group[::-1], strict=True):
            order = target.argsort(descending=True, stable=True).tolist()
            shown = [k for k in order if target[k] > certain]
            parts = _separated([names[k] for k in shown], " + ", [f" {target[k]:.2f}" for k in shown])
            note = " with ".join(dict.fromkeys(each.note.rpartition(":")[0] for each in (own, other)))
            found.append(SheetClip(to_display(clip, cfg), parts, note))
    return found


def _write(output_dir: str, pages: Sequence[np.ndarray]) -> list[str]:
    files = [os.path.join(output_dir, name) for name in PREVIEWS]
    with os_errors_reported(f"OUTPUT_DIR: cannot write to {output_dir}"):
        os.makedirs(output_dir, exist_ok=True)
        for path, page in zip(files, pages, strict=False):
            with paths.atomic_path(path) as temporary:
                Image.fromarray(page).save(temporary, "PNG")
        for path in files[len(pages) :]:  # of another config
            with suppress(FileNotFoundError):
                os.remove(path)
    return files[: len(pages)]
