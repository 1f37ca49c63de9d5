"""Spatial transforms: decoded frames to normalised clips, random for training and fixed for validation and testing.

Frames are uint8 RGB (T, H, W, 3), clips float32 (3, T, size, size). What becomes of a clip is first described by a
`ClipPlan`, then executed: here on the CPU, in device_transforms.py on any device. Random draws come from the global
generators of `random`, `numpy.random` and `torch`, in the order of the UniFormer releases; the caller seeds them.
"""

import math
import random
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.nn.functional import interpolate

from slowfast_uniformer.data.augment import Operation, augment, clip_augment
from slowfast_uniformer.errors import UserError

Frames = np.ndarray | torch.Tensor
Range = Iterable[float]  # (lowest, highest)


class Crop(NamedTuple):
    """How a frame becomes a frame of the clip.

    Attributes:
        box: (top, left, height, width) of the part that is resized.
        size: (height, width) that the box is resized to.
        corner: (top, left) of the crop in the resized box.
        flip: Whether to flip left to right.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    flip: bool = False


class Patch(NamedTuple):
    """A box of a clip that is erased in all frames.

    Attributes:
        top, left, height, width: of the box.
        values: what fills it, (T, 3, height, width) or one colour per frame (T, 3, 1, 1); None for 0.
    """

    top: int
    left: int
    height: int
    width: int
    values: torch.Tensor | None


class ClipPlan(NamedTuple):
    """What becomes of a clip's frames, in the order of the attributes.

    Attributes:
        operations: of the augmentation, on whole frames.
        crop: how they are cropped and resized.
        size: (height, width) of the clip.
        patches: what is erased of it.
        flip: whether the clip is then flipped left to right (DATA.FLIP_LABELS).
    """

    operations: tuple[Operation, ...]
    crop: Crop
    size: tuple[int, int]
    patches: tuple[Patch, ...] = ()
    flip: bool = False


class Normalisation(NamedTuple):
    """A value 0 to 255 of a channel, times `scale` plus `shift`, is the clip's; with `reverse` channels are BGR."""

    scale: tuple[float, float, float]
    shift: tuple[float, float, float]
    reverse: bool


def short_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of a frame resized to a shorter side of `size`; the longer side is rounded down."""
    if width < height:
        return math.floor(height / width * size), size
    return size, math.floor(width / height * size)


def view_corner(height: int, width: int, size: int, spatial: int) -> tuple[int, int]:
    """(top, left) of spatial crop 0, 1 or 2 of side `size`: left, centre and right, or top, centre and bottom of
    a frame that is taller than wide (the three crops of SlowFast, arXiv 1812.03982, section 4)."""
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if spatial == 1:
        return top, left
    if height > width:
        return spatial // 2 * (height - size), left
    return top, spatial // 2 * (width - size)


def _random_sides(area: float, scale: Range, ratio: Range) -> tuple[int, int]:
    """Two sides of a random box: `scale` times `area`, with the first `ratio` times the second, log-uniform."""
    area *= random.uniform(*scale)
    aspect = math.exp(random.uniform(*map(math.log, ratio)))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def random_box(height: int, width: int, scale: Range, ratio: Range) -> tuple[int, int, int, int]:
    """The box of a random resized crop (arXiv 1409.4842, section 6).

    Args:
        height: Height of the frame.
        width: Width of the frame.
        scale: Range of the box's share of the frame's area.
        ratio: Range of the aspect ratio, width / height.

    Returns:
        (top, left, height, width). After ten boxes that do not fit, the largest centred box within `ratio`.
    """
    for _ in range(10):
        w, h = _random_sides(height * width, scale, ratio)
        np.random.uniform()  # unused, but the releases draw it; without it later draws would differ from theirs
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    h, w = min(height, round(width / min(ratio))), min(width, round(height * max(ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def random_patches(
    shape: tuple[int, int, int, int], probability: float, mode: str, max_count: int = 1
) -> tuple[Patch, ...]:
    """The boxes of random erasing (arXiv 1708.04896), the same in all frames.

    Args:
        shape: of the clip, (3, T, H, W).
        probability: Probability that anything is erased.
        mode: Fill: "pixel" for normal noise, "rand" for a random colour per frame, "const" for 0.
        max_count: Largest number of boxes; they share 2 to 33 % of the area.
    """
    if random.random() > probability:
        return ()
    channels, frames, height, width = shape
    count = 1 if max_count == 1 else random.randint(1, max_count)
    patches = []
    for _ in range(count):
        for _ in range(100):
            h, w = _random_sides(height * width / count, (0.02, 1 / 3), (0.3, 1 / 0.3))
            if h < height and w < width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                noise = (channels, h, w) if mode == "pixel" else (channels, 1, 1)
                # Frame by frame: PyTorch's normal numbers depend on how many are drawn at a time.
                values = None if mode == "const" else torch.stack([torch.randn(noise) for _ in range(frames)])
                patches.append(Patch(top, left, h, w, values))
                break
    return tuple(patches)


def fill_patches(clip: torch.Tensor, patches: Iterable[Patch]) -> torch.Tensor:
    """Erase boxes of a clip (3, T, H, W) float32, in place; returns it."""
    for top, left, height, width, values in patches:
        clip[:, :, top : top + height, left : left + width] = 0 if values is None else values.transpose(0, 1)
    return clip


class ClipMaker:
    """Cropping, resizing and normalisation, with the constants of a config."""

    def __init__(self, cfg: CfgNode):
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (cfg.DATA.MEAN, cfg.DATA.STD))
        self.scale, self.shift = (v.float().view(3, 1, 1, 1) for v in (1 / (255 * std), -mean / std))
        self.reverse = cfg.DATA.REVERSE_INPUT_CHANNEL

    def clip(self, frames: Frames, crop: Crop, height: int, width: int) -> torch.Tensor:
        """The same crop of every frame, as a clip (3, T, height, width).

        Frame by frame, as a single frame stays in the CPU's cache. Values are normalised after resizing, which is
        less work than the releases' order on large frames and differs from it only by rounding (1e-6).
        """
        top, left, box_height, box_width = crop.box
        y, x = crop.corner
        clip = torch.empty(3, len(frames), height, width)
        for t, frame in enumerate(torch.as_tensor(frames)):
            part = frame[top : top + box_height, left : left + box_width].permute(2, 0, 1).unsqueeze(1)
            part = part.to(torch.float32, memory_format=torch.contiguous_format)
            part = interpolate(part, crop.size, mode="bilinear", align_corners=False)
            part = part[..., y : y + height, x : x + width]
            part = part.flip(-1) if crop.flip else part
            torch.addcmul(self.shift, part, self.scale, out=clip[:, t : t + 1])
        return clip

    def channel_order(self, clip: torch.Tensor) -> torch.Tensor:
        """RGB to the model's channel order, or back."""
        return clip.flip(0) if self.reverse else clip

    def execute(self, frames: Frames, plan: ClipPlan) -> torch.Tensor:
        """Frames (T, H, W, 3) to the clip (3, T, height, width) that a plan describes."""
        if plan.operations:
            frames = augment(np.asarray(frames), plan.operations)
        clip = self.channel_order(fill_patches(self.clip(frames, plan.crop, *plan.size), plan.patches))
        return clip.flip(-1) if plan.flip else clip

    def normalisation(self) -> Normalisation:
        """The constants as plain numbers."""
        return Normalisation(tuple(self.scale.flatten().tolist()), tuple(self.shift.flatten().tolist()), self.reverse)


class TrainTransform:
    """The random transform of a training clip.

    Steps: augmentation by AUG.AA_TYPE with one draw for all frames, random crop, horizontal flip, random erasing.
    With DATA.TRAIN_JITTER_SCALES_RELATIVE and _ASPECT_RELATIVE the crop is a random resized crop; otherwise the
    short side is resized to a random length (DATA.TRAIN_JITTER_SCALES) and a random square is cropped.

    Raises:
        UserError: Keys contradict each other or name an unknown augmentation.
    """

    def __init__(self, cfg: CfgNode):
        data, aug = cfg.DATA, cfg.AUG
        self.maker = ClipMaker(cfg)
        self.size = data.TRAIN_CROP_SIZE
        self.scale, self.ratio = data.TRAIN_JITTER_SCALES_RELATIVE, data.TRAIN_JITTER_ASPECT_RELATIVE
        self.jitter = data.TRAIN_JITTER_SCALES
        if not self.scale and min(self.jitter) < self.size:
            raise UserError(
                f"DATA.TRAIN_JITTER_SCALES: {self.jitter} lets the short side become smaller than "
                f"DATA.TRAIN_CROP_SIZE, {self.size}. Raise the one or lower the other"
            )
        self.flip = data.RANDOM_FLIP and not data.FLIP_LABELS  # label-aware flips: data/dataset.py
        self.augment = None
        if aug.ENABLE and aug.AA_TYPE:
            self.augment = clip_augment(aug.AA_TYPE, aug.INTERPOLATION)
        self.erasing = (aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT) if aug.ENABLE and aug.RE_PROB > 0 else None

    def __call__(self, frames: Frames) -> torch.Tensor:
        """Frames (T, H, W, 3) to a random clip (3, T, size, size)."""
        return self.maker.execute(frames, self.plan(*frames.shape[:3]))

    def plan(self, count: int, height: int, width: int) -> ClipPlan:
        """Make the draws of a clip of `count` frames of a height and width."""
        operations = self.augment(height, width) if self.augment else ()
        crop = self.random_crop(height, width)
        patches = random_patches((3, count, self.size, self.size), *self.erasing) if self.erasing else ()
        return ClipPlan(operations, crop, (self.size, self.size), patches)

    def random_crop(self, height: int, width: int) -> Crop:
        """A random crop of frames of this size."""
        if self.scale:
            crop = Crop(random_box(height, width, self.scale, self.ratio), (self.size, self.size))
        else:
            size = short_side_size(height, width, round(np.random.uniform(*self.jitter)))
            corner = self._random_start(size[0]), self._random_start(size[1])
            crop = Crop((0, 0, height, width), size, corner)
        return crop._replace(flip=self.flip and np.random.uniform() < 0.5)

    def _random_start(self, length: int) -> int:
        free = length - self.size
        return np.random.randint(free) if free else 0  # the last position is never drawn, as in the releases


class ViewTransform:
    """The fixed transform of validation and testing: short side resized to `size`, one of three square crops."""

    def __init__(self, cfg: CfgNode, size: int):
        self.maker = ClipMaker(cfg)
        self.size = size

    def __call__(self, frames: Frames, spatial: int = 1) -> torch.Tensor:
        """Frames (T, H, W, 3) to the clip (3, T, size, size) of a spatial crop (see `view_corner`)."""
        return self.crops(frames, (spatial,))[0]

    def crops(self, frames: Frames, spatial: Iterable[int]) -> list[torch.Tensor]:
        """Several spatial crops of the same frames, which are resized once for all of them."""
        plans = self.plans(*frames.shape[1:3], spatial)
        crop = plans[0].crop
        resized = self.maker.channel_order(self.maker.clip(frames, crop._replace(corner=(0, 0)), *crop.size))
        corners = [plan.crop.corner for plan in plans]
        return [resized[..., y : y + self.size, x : x + self.size] for y, x in corners]

    def plans(self, height: int, width: int, spatial: Iterable[int]) -> list[ClipPlan]:
        """The plans of spatial crops of frames of a height and width."""
        size = short_side_size(height, width, self.size)
        crop = Crop((0, 0, height, width), size)
        corners = [view_corner(*size, self.size, number) for number in spatial]
        return [ClipPlan((), crop._replace(corner=corner), (self.size, self.size)) for corner in corners]


def to_display(clip: torch.Tensor, cfg: CfgNode) -> torch.Tensor:
    """Undo normalisation: a clip (3, T, H, W) to uint8 RGB frames (T, H, W, 3)."""
    maker = ClipMaker(cfg)
    values = (maker.channel_order(clip.cpu().float()) - maker.shift) / maker.scale
    return values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
