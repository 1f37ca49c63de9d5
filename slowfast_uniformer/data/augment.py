"""timm's RandAugment, AutoAugment and AugMix on whole clips: one draw for all frames.

timm draws and knows the operations, which are Pillow's. Those that cost more on pictures than on arrays are
done here: where each moved pixel comes from, and with which weights, is computed once for all frames.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torch.nn.functional import embedding_bag

from slowfast_uniformer.errors import UserError

# How the names of timm's operations begin.
_GEOMETRIC = ("Rotate", "Shear", "Translate")
_VALUES = ("Invert", "Posterize", "Solarize", "Brightness")
_TAPS = {
    Image.Resampling.BILINEAR: torch.arange(0, 2, dtype=torch.int32),
    Image.Resampling.BICUBIC: torch.arange(-1, 3, dtype=torch.int32),
}


def picture_augment(name: str, interpolation: str) -> Callable[[Image.Image], Image.Image]:
    """timm's augmentation of a picture: RandAugment (`rand-m7-n4-mstd0.5-inc1`), AutoAugment (`v0`,
    `original-mstd0.5`) or AugMix (`augmix-m5-w4-d2`). `interpolation` of its geometric operations is
    bilinear, bicubic or random. UserError names the key of what is not known."""
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    if interpolation not in [*filters, "random"]:
        raise UserError(f"AUG.INTERPOLATION: {interpolation!r} is not one of bilinear, bicubic, random")
    options = {} if interpolation == "random" else {"interpolation": filters[interpolation]}
    build = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    try:
        return build.get(name.split("-")[0], auto_augment.auto_augment_transform)(name, options)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"AUG.AA_TYPE: {name!r} is not an augmentation that timm knows ({error}); such are "
            "'rand-m7-n4-mstd0.5-inc1', 'original', 'augmix-m3-w3', or '' for none"
        ) from None


def clip_augment(name: str, interpolation: str) -> Callable[[np.ndarray], np.ndarray]:
    """The same for frames, uint8 (T, H, W, 3): what each would become by itself with the same draws, but
    for rounding in geometric operations, where a few values in a thousand differ by 1."""
    augment = picture_augment(name, interpolation)
    if isinstance(augment, auto_augment.AugMixAugment):  # it blends pictures between its operations
        return partial(_frame_by_frame, augment)
    chains = [augment.ops] if isinstance(augment, auto_augment.RandAugment) else augment.policy
    for operation in (operation for chain in chains for operation in chain):
        operation.aug_fn = partial(_way(operation.name), operation.aug_fn)
    return augment


def _way(operation: str) -> Callable:
    if operation.startswith(_GEOMETRIC):
        return _all_at_once
    if operation.startswith(_VALUES):
        return _by_table
    return _sharpness if operation.startswith("Sharpness") else _frame_by_frame


def _frame_by_frame(function: Callable, frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    """`function` of each frame as a picture, each from the same state of `random` and `numpy.random`."""
    states = random.getstate(), np.random.get_state()
    results = np.empty_like(frames)
    for frame, result in zip(frames, results, strict=True):
        random.setstate(states[0])
        np.random.set_state(states[1])
        result[:] = np.asarray(function(Image.fromarray(frame), *arguments, **options))
    return results


def _all_at_once(function: Callable, frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    return function(_Clip(frames), *arguments, **options).frames


def _by_table(function: Callable, frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    """`function` of each frame, if it makes of each value another whatever its place and colour."""
    values = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2))
    table = np.asarray(function(values, *arguments, **options))[0, :, 0]
    return np.frombuffer(bytearray(frames).translate(table.tobytes()), np.uint8).reshape(frames.shape)


def _sharpness(_function: Callable, frames: np.ndarray, factor: float, **_options: Any) -> np.ndarray:
    """Pillow's: `factor` times as far from the mean of 3 x 3 pixels, of which the centre counts five times;
    the border stays."""
    result = frames.copy()
    for frame, sharp in zip(frames, result, strict=True):  # one frame stays in the processor's cache
        lines = frame[:-2].astype(np.uint16) + frame[1:-1] + frame[2:]
        centre = frame[1:-1, 1:-1]
        total = lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:] + 4 * centre.astype(np.uint16)
        mean = ((total + 6) // 13).astype(np.float32)
        sharp[1:-1, 1:-1] = (mean + np.float32(factor) * (centre - mean)).clip(0, 255)
    return result


class _Clip:
    """What timm's geometric operations take for a picture: they all end in `transform`."""

    rotate = Image.Image.rotate

    def __init__(self, frames: np.ndarray):
        self.frames = frames
        self.size = frames.shape[2], frames.shape[1]

    def copy(self) -> "_Clip":
        return self

    def transform(
        self,
        size: tuple[int, int],
        _method: Image.Transform,
        matrix: list[float],
        resample: Image.Resampling,
        fillcolor: tuple[int, int, int],
    ) -> "_Clip":
        return _Clip(affine(self.frames, matrix, resample, fillcolor))


def affine(
    frames: np.ndarray, matrix: list[float], resample: Image.Resampling, fill: tuple[int, int, int]
) -> np.ndarray:
    """Pillow's affine transform of every frame of uint8 (T, H, W, 3): the pixel whose centre is (x, y) comes
    from (a x + b y + c, d x + e y + f), where `matrix` is a to f, bilinear or bicubic; `fill` where that
    lies outside."""
    count, height, width, channels = frames.shape
    a, b, c, d, e, f = matrix
    x, y = (torch.arange(width, dtype=torch.float64) + 0.5, torch.arange(height, dtype=torch.float64)[:, None] + 0.5)
    x, y = (a * x + b * y + c).flatten(), (d * x + e * y + f).flatten()
    (columns, across), (rows, down) = _taps(x, width, resample), _taps(y, height, resample)
    sources = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    sources[outside] = height * width  # the last row of the table
    weights = (down[:, :, None] * across[:, None]).flatten(1)
    # All frames' values of a pixel side by side, so that one look-up serves them all. Pillow cuts fractions
    # off, and sums of floats fall short of whole numbers.
    table = torch.empty(height * width + 1, count * channels)
    table[:-1] = torch.from_numpy(_swapped(frames.reshape(count, -1, channels)).reshape(height * width, -1))
    table[-1] = torch.tensor(fill).repeat(count)
    table += 2**-12
    moved = embedding_bag(sources, table, per_sample_weights=weights, mode="sum")
    if resample == Image.Resampling.BICUBIC:  # which overshoots
        moved.clamp_(0, 255)
    moved = moved.numpy().astype(np.uint8)  # eight times as fast as PyTorch's
    return _swapped(moved.reshape(height * width, count, channels)).reshape(frames.shape)


def _swapped(values: np.ndarray) -> np.ndarray:
    """(A, B, 3) as (B, A, 3), a pixel as one item."""
    return np.ascontiguousarray(values.view("V3")[..., 0].T)[..., None].view(np.uint8)


def _taps(position: torch.Tensor, length: int, resample: Image.Resampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of `length` pixels in a line make the value at each position (N), and their weights, both (N, k),
    without those that make none; the outermost go on beyond the ends. Bicubic is Keys's kernel with a = -1,
    as in Pillow."""
    first = (position - 0.5).floor()
    r = (position - 0.5 - first).float()
    if resample == Image.Resampling.BILINEAR:
        weights = [1 - r, r]
    else:
        weights = [r * (r * (2 - r) - 1), r * r * (r - 2) + 1, r * (1 + r - r * r), r * r * (r - 1)]
    used = [tap for tap, weight in enumerate(weights) if weight.any()]  # one if pixels do not move this way
    indices = (first.int()[:, None] + _TAPS[resample][used]).clamp_(0, length - 1)
    return indices, torch.stack([weights[tap] for tap in used], 1)
