"""Executes clip plans with PyTorch on any device: from the pixels that a plan needs to a normalised clip.

The counterpart of `transforms.ClipMaker.execute` and `augment.augment`, which work on the CPU with Pillow. Frames are
uint8 (T, 3, h, w) here, and cover a `Region` of the whole frames: an operation is computed where the next one needs it.
Nothing is read back from the device and no values are copied to it, so that a GPU is never waited for.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from slowfast_uniformer.data.augment import Operation, Region, affine_needs, affine_sources, look_up
from slowfast_uniformer.data.transforms import ClipPlan, Crop, Normalisation, fill_patches

Size = tuple[int, int]  # (height, width)
_OF_WHOLE_FRAMES = ("AutoContrast", "Equalize", "Contrast")  # prefixes; their tables follow from all pixels


def needed_regions(plan: ClipPlan, size: Size) -> list[Region]:
    """The part of the frames that each operation reads, and last that which the crop reads, of frames of a `size`."""
    regions = [_crop_needs(plan.crop, plan.size)]
    for name, arguments in reversed(plan.operations):
        target = regions[0]
        if name == "Affine":
            target = affine_needs(*arguments, size, target)
        elif is_of_whole_frames(name):
            target = Region(0, 0, *size)
        elif name.startswith(("Sharpness", "GaussianBlur")):
            margin = 1 if name.startswith("Sharpness") else 3 * (int(_box_radius(*arguments)) + 1)
            top, left, bottom, right = target
            bottom, right = min(bottom + margin, size[0]), min(right + margin, size[1])
            target = Region(max(top - margin, 0), max(left - margin, 0), bottom, right)
        regions.insert(0, target)
    return regions


def is_of_whole_frames(name: str) -> bool:
    """Whether an operation changes values by a table that follows from all of a frame's pixels."""
    return name.startswith(_OF_WHOLE_FRAMES)


def _crop_needs(crop: Crop, size: Size) -> Region:
    """The part of the box from which the crop's pixels are interpolated."""
    ends = []
    for start, length, resized, corner, out in zip(
        crop.box[:2], crop.box[2:], crop.size, crop.corner, size, strict=True
    ):
        scale = length / resized
        first, last = math.floor((corner + 0.5) * scale - 0.5) - 1, math.floor((corner + out - 0.5) * scale - 0.5) + 2
        ends.append((start + max(first, 0), start + min(last + 1, length)))
    (top, bottom), (left, right) = ends
    return Region(top, left, bottom, right)


def execute(
    frames: torch.Tensor, region: Region, size: Size, plan: ClipPlan, values: Normalisation, clip: torch.Tensor
) -> None:
    """Make a clip.

    Args:
        frames: uint8 (T, h, w, 3), the part `region` of frames of a `size`.
        plan: what becomes of them. Operations are those of `augment.draw`, or "Table" with tables of values, uint8
            (256,) or (T, 3, 256).
        values: how they are normalised.
        clip: where to put the result: (3, T, height, width), on the device of `frames`.
    """
    regions = needed_regions(plan, size)
    frames = _cut(frames.permute(0, 3, 1, 2), region, regions[0])
    for operation, source, target in zip(plan.operations, regions, regions[1:], strict=False):
        frames = _run(operation, frames, source, target, size)
    parts = _resize(frames, regions[-1], plan.crop, plan.size)
    if plan.crop.flip:
        parts = parts.flip(-1)
    for channel, (scale, shift) in enumerate(zip(values.scale, values.shift, strict=True)):
        torch.add(parts[:, channel] * scale, shift, out=clip[channel])
    fill_patches(clip, plan.patches)
    if values.reverse:
        clip.copy_(clip.flip(0))
    if plan.flip:
        clip.copy_(clip.flip(-1))


def _cut(frames: torch.Tensor, source: Region, target: Region) -> torch.Tensor:
    rows = slice(target.top - source.top, target.bottom - source.top)
    return frames[..., rows, target.left - source.left : target.right - source.left]


def _resize(frames: torch.Tensor, region: Region, crop: Crop, size: Size) -> torch.Tensor:
    """The window of `size` at the crop's corner of its box resized: float32 (T, 3, height, width).

    It is `interpolate(mode="bilinear", align_corners=False)`, which cannot resize to a window alone.
    """
    frames = frames.contiguous()
    starts = crop.box[0] - region.top, crop.box[1] - region.left
    for axis in (0, 1):
        length, present = crop.box[2 + axis], frames.shape[2 + axis]
        wanted = torch.arange(crop.corner[axis], crop.corner[axis] + size[axis], device=frames.device)
        position = ((wanted + 0.5) * (length / crop.size[axis]) - 0.5).clamp_(min=0)
        first = position.long()
        weight = (position - first)[:, None] if axis == 0 else position - first
        last = (first + 1).clamp_(max=length - 1)
        first, last = ((index + starts[axis]).clamp_(0, present - 1) for index in (first, last))
        near, far = (frames.index_select(2 + axis, index).float() for index in (first, last))
        frames = torch.lerp(near, far, weight)
    return frames


def _run(operation: Operation, frames: torch.Tensor, source: Region, target: Region, size: Size) -> torch.Tensor:
    """One operation: from its frames in the region `source` to its result in `target`."""
    name, arguments = operation
    if name == "Affine":
        return _affine(frames, source, target, size, *arguments)
    if name.startswith("GaussianBlur"):
        return _cut(_gaussian_blur(frames, *arguments), source, target)
    if name.startswith("Sharpness"):
        return _cut(_sharpness(frames, *arguments), source, target)
    part = _cut(frames, source, target)
    if name == "Table":
        return apply_tables(part, *arguments)
    if name.startswith("Color"):
        return _blend(grey(part)[:, None], part, *arguments)
    if name == "Desaturate":
        return _blend(grey(part)[:, None], part, min(1.0, max(0.0, 1.0 - arguments[0])))
    if name.startswith("Contrast"):
        luma = grey(frames)
        count = luma[0].numel()
        mean = (2 * luma.flatten(1).sum(1) + count).div(2 * count, rounding_mode="floor")
        return apply_tables(part, contrast_tables(mean, *arguments))
    values = frames.flatten(2)
    if name == "Equalize":
        return apply_tables(part, equalize_tables(_histograms(values)))
    return apply_tables(part, autocontrast_tables(values.amin(2), values.amax(2)))


def apply_tables(frames: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """New values by a table for all, uint8 (256,), or for each frame and channel (T, 3, 256)."""
    if tables.ndim == 1:
        return tables[frames.int()]
    return tables.gather(2, frames.flatten(2).long()).view(frames.shape)


def _blend(first: torch.Tensor, second: torch.Tensor, factor: float) -> torch.Tensor:
    """Pillow's: `factor` of the way from the first to the second, or beyond."""
    first = first.float()
    return (first + factor * (second - first)).clamp_(0, 255).to(torch.uint8)


def grey(frames: torch.Tensor) -> torch.Tensor:
    """Pillow's luma of RGB frames: int32 (T, h, w)."""
    red, green, blue = frames.int().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _histograms(values: torch.Tensor) -> torch.Tensor:
    """How often each value (T, 3, pixels) occurs in each frame and channel: int64 (T, 3, 256)."""
    values = values.long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=values.device)
    return counts.scatter_add_(2, values, torch.ones_like(values))


def contrast_tables(mean: torch.Tensor, factor: float) -> torch.Tensor:
    """Tables (T, 3, 256) of Pillow's contrast: extrapolates by `factor` from the luma's rounded mean (T,)."""
    values = torch.arange(256, dtype=torch.float32, device=mean.device)
    return _blend(mean[:, None, None], values, factor).expand(-1, 3, -1)


def autocontrast_tables(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Tables (T, 3, 256) of Pillow's autocontrast, which stretches values from `low` to `high`, (T, 3), to 0 to 255."""
    low, high = low.long()[..., None], high.long()[..., None]
    width = (high - low).clamp(min=1).double()
    scale = torch.full_like(width, 255.0) / width  # 255.0 / width would round twice
    values = torch.arange(256, device=low.device)
    stretched = (values * scale - low * scale).long().clamp_(0, 255)
    return torch.where(high > low, stretched, values).to(torch.uint8)


def equalize_tables(counts: torch.Tensor) -> torch.Tensor:
    """Tables of Pillow's equalize, after which values are about equally frequent, from histograms (..., 256)."""
    present = (counts > 0).int()
    last = 255 - present.flip(-1).argmax(-1, keepdim=True)
    step = (counts.sum(-1, keepdim=True) - counts.gather(-1, last)).div(255, rounding_mode="floor")
    before = counts.cumsum(-1) - counts
    spread = (before + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    return torch.where(step > 0, spread, torch.arange(256, device=counts.device)).to(torch.uint8)


def _sharpness(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """See `augment._sharpness`. The border is not changed."""
    values = frames.int()
    lines = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    centre = values[..., 1:-1, 1:-1]
    total = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * centre
    result = frames.clone()
    result[..., 1:-1, 1:-1] = _blend((total + 6).div(13, rounding_mode="floor"), centre, factor)
    return result


def _affine(
    frames: torch.Tensor,
    source: Region,
    target: Region,
    size: Size,
    matrix: Sequence[float],
    resample: int,
    fill: tuple[int, int, int],
) -> torch.Tensor:
    """See `augment.affine`."""
    count, channels, height, width = frames.shape
    sources, weights = affine_sources(matrix, resample, size, source, target, frames.device)
    table = torch.empty(height * width + 1, count, channels, device=frames.device)
    table[:-1] = frames.permute(2, 3, 0, 1).reshape(-1, count, channels)
    for channel, value in enumerate(fill):
        table[-1, :, channel] = value
    moved = look_up(table.flatten(1), sources, weights, resample).to(torch.uint8)
    return moved.view(*target.size, count, channels).permute(2, 3, 0, 1)


def _box_radius(sigma: float) -> float:
    """The radius of each of the three box blurs with which Pillow approximates a Gaussian one (Gwosdek et al., Scale
    Space and Variational Methods 2011, equations 7, 11 and 14)."""
    variance = sigma * sigma / 3
    length = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * length + 1) * (length * (length + 1) - 3 * variance)
    return length + fraction / (6 * (variance - (length + 1) ** 2))


def _gaussian_blur(frames: torch.Tensor, sigma: float) -> torch.Tensor:
    """Pillow's Gaussian blur: three box blurs along each axis in integers, with repeated borders."""
    radius = _box_radius(sigma)
    whole = int(radius)
    inner = int(np.float32(1 << 24) / np.float32(radius * 2 + 1))  # in Pillow's precision, which decides ties
    outer = ((1 << 24) - (whole * 2 + 1) * inner) // 2  # weight of the two pixels that the box covers in part
    values = frames.long()
    for axis in (3, 3, 3, 2, 2, 2):
        places = torch.arange(frames.shape[axis], device=frames.device)
        total = torch.full_like(values, 1 << 23)
        for offset in range(-whole - 1, whole + 2):
            moved = values.index_select(axis, (places + offset).clamp_(0, frames.shape[axis] - 1))
            total += moved * (outer if abs(offset) > whole else inner)
        values = total >> 24
    return values.to(torch.uint8)
