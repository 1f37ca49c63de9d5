"""timm's RandAugment, AutoAugment and AugMix on whole clips: one draw for all frames.

timm draws and knows the operations. Those that move pixels cost most, and move those of all frames alike:
where each pixel comes from, and with which weights, is computed once for the clip (3 to 4 times as fast).
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

_GEOMETRIC = ("Rotate", "Shear", "Translate")  # how the names of timm's operations begin
_TAPS = {Image.Resampling.BILINEAR: torch.arange(0, 2), Image.Resampling.BICUBIC: torch.arange(-1, 3)}


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
        way = _all_at_once if operation.name.startswith(_GEOMETRIC) else _frame_by_frame
        operation.aug_fn = partial(way, operation.aug_fn)
    return augment


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


class _Clip:
    """What timm's geometric operations take for a picture: they all end in `transform`."""

    rotate = Image.Image.rotate

    def __init__(self, frames: np.ndarray):
        self.frames = frames
        self.size = frames.shape[2], frames.shape[1]

    def copy(self) -> "_Clip":
        return self

    def transform(
        self, size: tuple[int, int], _method: Image.Transform, matrix: list[float],
        resample: Image.Resampling, fillcolor: tuple[int, int, int],
    ) -> "_Clip":  # fmt: skip
        return _Clip(affine(self.frames, matrix, resample, fillcolor))


def affine(
    frames: np.ndarray, matrix: list[float], resample: Image.Resampling, fill: tuple[int, int, int]
) -> np.ndarray:
    """Pillow's affine transform of every frame of uint8 (T, H, W, 3): the pixel whose centre is (x, y) comes
    from (a x + b y + c, d x + e y + f), where `matrix` is a to f, bilinear or bicubic; `fill` where that
    lies outside."""
    count, height, width, channels = frames.shape
    a, b, c, d, e, f = matrix
    x, y = (
        torch.arange(width, dtype=torch.float64) + 0.5,
        torch.arange(height, dtype=torch.float64)[:, None] + 0.5,
    )
    x, y = (a * x + b * y + c).flatten(), (d * x + e * y + f).flatten()
    (columns, across), (rows, down) = _taps(x, width, resample), _taps(y, height, resample)
    sources = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    weights = (down[:, :, None] * across[:, None]).flatten(1)
    # all frames' values of a pixel side by side, so that one look-up serves them all
    table = torch.from_numpy(frames).permute(1, 2, 0, 3).reshape(height * width, count * channels).float()
    moved = embedding_bag(sources, table, per_sample_weights=weights, mode="sum")
    moved = moved.add_(2**-12).clamp_(0, 255).to(torch.uint8)  # Pillow cuts off; sums fall short by rounding
    moved = moved.view(height * width, count, channels)
    moved[(x < 0) | (x >= width) | (y < 0) | (y >= height)] = torch.tensor(fill, dtype=torch.uint8)
    return moved.view(height, width, count, channels).permute(2, 0, 1, 3).contiguous().numpy()


def _taps(
    position: torch.Tensor, length: int, resample: Image.Resampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of `length` pixels in a line make the value at each position (N), and their weights, both (N, k);
    the outermost go on beyond the ends. Bicubic is Keys's kernel with a = -1, as in Pillow."""
    first = (position - 0.5).floor()
    r = (position - 0.5 - first).float()
    if resample == Image.Resampling.BILINEAR:
        weights = [1 - r, r]
    else:
        weights = [r * (r * (2 - r) - 1), r * r * (r - 2) + 1, r * (1 + r - r * r), r * r * (r - 1)]
    indices = (first.long()[:, None] + _TAPS[resample]).clamp_(0, length - 1)
    return indices, torch.stack(weights, 1)
