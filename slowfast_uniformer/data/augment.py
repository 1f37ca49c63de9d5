"""timm's RandAugment, AutoAugment and AugMix on clips: one draw for all frames.

timm draws and names the operations, which are Pillow's. Operations that are faster on arrays than on images are
implemented here: sampling positions and interpolation weights are computed once for all frames.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torch.nn.functional import embedding_bag

from slowfast_uniformer.errors import UserError

Matrix = Sequence[float]  # a to f of an affine transform
Colour = tuple[int, int, int]
# Prefixes of the names of timm's operations.
_GEOMETRIC = ("Rotate", "Shear", "Translate")
_POINTWISE = ("Invert", "Posterize", "Solarize", "Brightness")


def image_augment(name: str, interpolation: str) -> Callable[[Image.Image], Image.Image]:
    """timm's augmentation of an image.

    Args:
        name: AUG.AA_TYPE: RandAugment (`rand-m7-n4-mstd0.5-inc1`; arXiv 1909.13719), AutoAugment (`v0`,
            `original-mstd0.5`; arXiv 1805.09501) or AugMix (`augmix-m5-w4-d2`; arXiv 1912.02781).
        interpolation: AUG.INTERPOLATION of geometric operations: bilinear, bicubic or random.

    Raises:
        UserError: There is no such augmentation; the message names the key.
    """
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    options = {} if interpolation == "random" else {"interpolation": filters[interpolation]}
    build = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    try:
        return build.get(name.split("-")[0], auto_augment.auto_augment_transform)(name, options)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"AUG.AA_TYPE: {name!r} is not an augmentation of timm ({error}); examples are "
            "'rand-m7-n4-mstd0.5-inc1', 'original', 'augmix-m3-w3', and '' for none"
        ) from None


def clip_augment(name: str, interpolation: str) -> Callable[[np.ndarray], np.ndarray]:
    """`image_augment` for the frames of a clip, uint8 (T, H, W, 3), with the same draws for all frames.

    Each frame equals the augmented single image, except for rounding in geometric operations, where a few values
    in a thousand differ by 1.
    """
    augment = image_augment(name, interpolation)
    if isinstance(augment, auto_augment.AugMixAugment):  # it blends images between its operations
        return partial(_frame_by_frame, augment)
    chains = [augment.ops] if isinstance(augment, auto_augment.RandAugment) else augment.policy
    for operation in (operation for chain in chains for operation in chain):
        operation.aug_fn = partial(_implementation(operation.name), operation.aug_fn)
    return augment


def _implementation(operation: str) -> Callable:
    if operation.startswith(_GEOMETRIC):
        return _geometric
    if operation.startswith(_POINTWISE):
        return _by_lookup_table
    return _sharpness if operation.startswith("Sharpness") else _frame_by_frame


def _frame_by_frame(function: Callable, frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    """Apply `function` to each frame as an image, from the same state of `random` and `numpy.random`."""
    states = random.getstate(), np.random.get_state()
    results = np.empty_like(frames)
    for frame, result in zip(frames, results, strict=True):
        random.setstate(states[0])
        np.random.set_state(states[1])
        result[:] = np.asarray(function(Image.fromarray(frame), *arguments, **options))
    return results


def _geometric(function: Callable, frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    return function(_Clip(frames), *arguments, **options).frames


def _by_lookup_table(function: Callable, frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    """Apply a pointwise `function`, whose result depends neither on position nor on channel."""
    values = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2))
    table = np.asarray(function(values, *arguments, **options))[0, :, 0]
    return np.frombuffer(bytearray(frames).translate(table.tobytes()), np.uint8).reshape(frames.shape)


def _sharpness(_function: Callable, frames: np.ndarray, factor: float, **_options: Any) -> np.ndarray:
    """Pillow's sharpness: extrapolates by `factor` from the 3 x 3 smoothed frame, whose kernel weights the centre
    five times; the border is not changed."""
    result = frames.copy()
    for frame, sharp in zip(frames, result, strict=True):  # a single frame stays in the CPU's cache
        lines = frame[:-2].astype(np.uint16) + frame[1:-1] + frame[2:]
        centre = frame[1:-1, 1:-1]
        total = lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:] + 4 * centre.astype(np.uint16)
        mean = ((total + 6) // 13).astype(np.float32)
        sharp[1:-1, 1:-1] = (mean + np.float32(factor) * (centre - mean)).clip(0, 255)
    return result


class _Clip:
    """Stands in for the image in timm's geometric operations, which all end in `transform`."""

    rotate = Image.Image.rotate

    def __init__(self, frames: np.ndarray):
        self.frames = frames
        self.size = frames.shape[2], frames.shape[1]

    def copy(self) -> "_Clip":
        return self

    def transform(self, _size: Any, _method: Any, matrix: Matrix, resample: int, fillcolor: Colour) -> "_Clip":
        return _Clip(affine(self.frames, matrix, resample, fillcolor))


def affine(frames: np.ndarray, matrix: Matrix, resample: int, fill: Colour) -> np.ndarray:
    """Pillow's affine transform of every frame.

    Args:
        frames: uint8 (T, H, W, 3).
        matrix: (a, b, c, d, e, f): the pixel with centre (x, y) is sampled at (a x + b y + c, d x + e y + f).
        resample: Bilinear or bicubic.
        fill: Colour of pixels that are sampled outside the frame.
    """
    count, height, width, channels = frames.shape
    a, b, c, d, e, f = matrix
    x, y = (torch.arange(width, dtype=torch.float64) + 0.5, torch.arange(height, dtype=torch.float64)[:, None] + 0.5)
    x, y = (a * x + b * y + c).flatten(), (d * x + e * y + f).flatten()
    (columns, across), (rows, down) = _taps(x, width, resample), _taps(y, height, resample)
    sources = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    sources[outside] = height * width  # the last row of the table
    weights = (down[:, :, None] * across[:, None]).flatten(1)
    # All frames' values of a pixel are neighbours, so that one lookup serves all frames. Pillow truncates, and
    # float sums can fall just short of whole numbers, hence the small addend.
    table = torch.empty(height * width + 1, count * channels)
    table[:-1] = torch.from_numpy(_transpose_pixels(frames.reshape(count, -1, channels)).reshape(height * width, -1))
    table[-1] = torch.tensor(fill).repeat(count)
    table += 2**-12
    moved = embedding_bag(sources, table, per_sample_weights=weights, mode="sum")
    if resample == Image.Resampling.BICUBIC:  # bicubic overshoots
        moved.clamp_(0, 255)
    moved = moved.numpy().astype(np.uint8)  # eight times faster than PyTorch's conversion
    return _transpose_pixels(moved.reshape(height * width, count, channels)).reshape(frames.shape)


def _transpose_pixels(values: np.ndarray) -> np.ndarray:
    """(A, B, 3) to (B, A, 3), with a pixel as one item of three bytes."""
    return np.ascontiguousarray(values.view("V3")[..., 0].T)[..., None].view(np.uint8)


def _taps(position: torch.Tensor, length: int, resample: Image.Resampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and weights, both (N, k), of the pixels that are interpolated at each position (N) of a line.

    Taps whose weights are all 0 are left out; pixels beyond the ends repeat the outermost ones. Bicubic is Keys's
    kernel (IEEE TASSP 29, 1981) with a = -1, as in Pillow.
    """
    first = (position - 0.5).floor()
    r = (position - 0.5 - first).float()
    if resample == Image.Resampling.BILINEAR:
        start, weights = 0, [1 - r, r]
    else:
        start, weights = -1, [r * (r * (2 - r) - 1), r * r * (r - 2) + 1, r * (1 + r - r * r), r * r * (r - 1)]
    used = [tap for tap, weight in enumerate(weights) if weight.any()]  # a single one if nothing moves along this axis
    indices = (first.int()[:, None] + torch.tensor(used, dtype=torch.int32) + start).clamp_(0, length - 1)
    return indices, torch.stack([weights[tap] for tap in used], 1)
