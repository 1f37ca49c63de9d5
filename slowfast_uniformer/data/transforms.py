"""Decoded frames to normalised clips: the random transform of training and the fixed views of testing.

Frames are uint8 RGB (T, H, W, 3), clips float32 (3, T, size, size). Random draws come from the global
generators of `random`, `numpy.random` and `torch`, in the order of the UniFormer releases; the caller seeds
them.
"""

import math
import random
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.nn.functional import interpolate

from slowfast_uniformer.errors import UserError

Frames = np.ndarray | torch.Tensor


class Cut(NamedTuple):
    """What becomes of a frame: its `box` (top, left, height, width) is scaled to `size` (height, width), and
    of that the square which begins at `corner` (top, left) is kept, mirrored left to right if `flip`."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    flip: bool = False


def short_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of a frame scaled so that its shorter side is `size`; the longer is rounded down."""
    if width < height:
        return math.floor(height / width * size), size
    return size, math.floor(width / height * size)


def view_corner(height: int, width: int, size: int, spatial: int) -> tuple[int, int]:
    """(top, left) of the square of side `size` that is crop `spatial` of a frame: 0, 1, 2 for left, centre,
    right, or top, middle, bottom where the frame is taller than wide."""
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if spatial == 1:
        return top, left
    if height > width:
        return spatial // 2 * (height - size), left
    return top, spatial // 2 * (width - size)


def _random_sides(area: float, part: Iterable[float], ratio: Iterable[float]) -> tuple[int, int]:
    """Sides of a random rectangle of a `part` (from, to) of `area`, the first `ratio` (from, to) times the
    second."""
    area *= random.uniform(*part)
    aspect = math.exp(random.uniform(*map(math.log, ratio)))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def random_box(height: int, width: int, part: Iterable[float], ratio: Iterable[float]) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) that has a `part` (from, to) of the frame's area and is `ratio`
    (from, to) times as wide as high (arXiv 1409.4842, section 6); after ten that do not fit, the largest in
    the centre that does."""
    for _ in range(10):
        w, h = _random_sides(height * width, part, ratio)
        np.random.uniform()  # drawn in vain by the releases too; without it, later draws would not be theirs
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    h, w = min(height, round(width / min(ratio))), min(width, round(height * max(ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def erase(clip: torch.Tensor, probability: float, mode: str, max_count: int = 1) -> torch.Tensor:
    """Random erasing (arXiv 1708.04896), in place: with `probability`, 1 to `max_count` boxes, the same in
    all frames and together up to a third of the area, are filled with normal noise (mode `pixel`), one random
    colour in each frame (`rand`) or 0 (`const`)."""
    if random.random() > probability:
        return clip
    channels, _, height, width = clip.shape
    count = 1 if max_count == 1 else random.randint(1, max_count)
    for _ in range(count):
        for _ in range(100):
            h, w = _random_sides(height * width / count, (0.02, 1 / 3), (0.3, 1 / 0.3))
            if h < height and w < width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                for frame in clip[:, :, top : top + h, left : left + w].unbind(1):
                    noise = (channels, h, w) if mode == "pixel" else (channels, 1, 1)
                    frame[:] = 0 if mode == "const" else torch.randn(noise)
                break
    return clip


class _Pixels:
    """Cutting, scaling and normalising, with the constants of a config."""

    def __init__(self, cfg: CfgNode):
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (cfg.DATA.MEAN, cfg.DATA.STD))
        self.scale, self.shift = (v.float().view(3, 1, 1, 1) for v in (1 / (255 * std), -mean / std))
        self.reverse = cfg.DATA.REVERSE_INPUT_CHANNEL

    def clip(self, frames: Frames, cut: Cut, height: int, width: int) -> torch.Tensor:
        """The same cut of every frame, `height` x `width` pixels of it, as a clip (3, T, height, width).

        Frame by frame, a frame stays in the processor's cache. Values are normalised after scaling, which is
        less work than the releases' order on large frames and differs from it by rounding only (1e-6).
        """
        top, left, bottom, right = *cut.box[:2], cut.box[0] + cut.box[2], cut.box[1] + cut.box[3]
        y, x = cut.corner
        clip = torch.empty(3, len(frames), height, width)
        for t, frame in enumerate(torch.as_tensor(frames)):
            part = frame[top:bottom, left:right].permute(2, 0, 1).unsqueeze(1)
            part = part.to(torch.float32, memory_format=torch.contiguous_format)
            part = interpolate(part, cut.size, mode="bilinear", align_corners=False)
            part = part[..., y : y + height, x : x + width]
            part = part.flip(-1) if cut.flip else part
            torch.addcmul(self.shift, part, self.scale, out=clip[:, t : t + 1])
        return clip

    def finish(self, clip: torch.Tensor) -> torch.Tensor:
        return clip.flip(0) if self.reverse else clip


class TrainTransform:
    """The random transform of a training clip: augmentation by AUG.AA_TYPE with one draw for all frames, a
    random crop, a flip, random erasing. Where DATA.TRAIN_JITTER_SCALES_RELATIVE and _ASPECT_RELATIVE are set,
    the crop is a random box resized, otherwise a random square after scaling by DATA.TRAIN_JITTER_SCALES."""

    def __init__(self, cfg: CfgNode):
        data, aug = cfg.DATA, cfg.AUG
        self.pixels = _Pixels(cfg)
        self.size = data.TRAIN_CROP_SIZE
        self.part, self.ratio = data.TRAIN_JITTER_SCALES_RELATIVE, data.TRAIN_JITTER_ASPECT_RELATIVE
        self.jitter = data.TRAIN_JITTER_SCALES
        if not self.part and min(self.jitter) < self.size:
            raise UserError(
                f"DATA.TRAIN_JITTER_SCALES: {self.jitter} lets the short side become smaller than "
                f"DATA.TRAIN_CROP_SIZE, {self.size}. Raise the one or lower the other"
            )
        self.flip = data.RANDOM_FLIP and not data.FLIP_LABELS  # that needs the label: data/dataset.py
        self.augment = None
        if aug.ENABLE and aug.AA_TYPE:
            from slowfast_uniformer.data.augment import clip_augment

            self.augment = clip_augment(aug.AA_TYPE, aug.INTERPOLATION)
        self.erasing = (aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT) if aug.ENABLE and aug.RE_PROB > 0 else None

    def __call__(self, frames: Frames) -> torch.Tensor:
        """Frames (T, H, W, 3) to a random clip (3, T, size, size)."""
        if self.augment:
            frames = self.augment(np.asarray(frames))
        clip = self.pixels.clip(frames, self.cut(*frames.shape[1:3]), self.size, self.size)
        if self.erasing:
            erase(clip, *self.erasing)
        return self.pixels.finish(clip)

    def cut(self, height: int, width: int) -> Cut:
        """What becomes of frames of this size, drawn at random."""
        if self.part:
            cut = Cut(random_box(height, width, self.part, self.ratio), (self.size, self.size))
        else:
            size = short_side_size(height, width, round(np.random.uniform(*self.jitter)))
            corner = self._random_start(size[0]), self._random_start(size[1])
            cut = Cut((0, 0, height, width), size, corner)
        return cut._replace(flip=self.flip and np.random.uniform() < 0.5)

    def _random_start(self, length: int) -> int:
        free = length - self.size
        return np.random.randint(free) if free else 0  # the last place is never drawn, as in the releases


class ViewTransform:
    """The fixed transform of validation and testing: the short side scaled to `size`, one of three crops."""

    def __init__(self, cfg: CfgNode, size: int):
        self.pixels = _Pixels(cfg)
        self.size = size

    def __call__(self, frames: Frames, spatial: int = 1) -> torch.Tensor:
        """Frames (T, H, W, 3) to the clip (3, T, size, size) that is crop `spatial`: 0 left or top, 1 centre,
        2 right or bottom."""
        return self.crops(frames, (spatial,))[0]

    def crops(self, frames: Frames, spatial: Iterable[int]) -> list[torch.Tensor]:
        """Several crops of the same frames, which are scaled once for all of them."""
        height, width = frames.shape[1:3]
        size = short_side_size(height, width, self.size)
        whole = self.pixels.finish(self.pixels.clip(frames, Cut((0, 0, height, width), size), *size))
        corners = [view_corner(*size, self.size, crop) for crop in spatial]
        return [whole[..., y : y + self.size, x : x + self.size] for y, x in corners]


def to_display(clip: torch.Tensor, cfg: CfgNode) -> torch.Tensor:
    """A normalised clip (3, T, H, W) back as uint8 RGB frames (T, H, W, 3), to be looked at."""
    pixels = _Pixels(cfg)
    values = (pixels.finish(clip.cpu().float()) - pixels.shift) / pixels.scale
    return values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
