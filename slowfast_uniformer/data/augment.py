"""timm's RandAugment, AutoAugment and AugMix on clips: one draw for all frames.

timm draws and names the operations, which are Pillow's. They are drawn first (`clip_augment`) and executed later: on
arrays and images here (`augment`), on any device in device_transforms.py. Operations that are faster on arrays than on
images are implemented here: sampling positions and interpolation weights are computed once for all frames.
"""

import math
import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn.functional import embedding_bag

from slowfast_uniformer.errors import UserError

Matrix = Sequence[float]  # a to f of an affine transform
Colour = tuple[int, int, int]
POINTWISE = ("Invert", "Posterize", "Solarize", "Brightness")  # prefixes of the names of timm's operations


class Operation(NamedTuple):
    """An operation on all frames of a clip, all of whose draws are made.

    Attributes:
        name: timm's, or "Affine" of all geometric operations, or "AugMix" of that whole augmentation.
        arguments: of timm's function after the image; of `affine` after the frames; of `_augmix` after the frames.
    """

    name: str
    arguments: tuple = ()


class Region(NamedTuple):
    """A part of a frame, in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


@cache
def _timm() -> ModuleType:
    """timm's augmentations. Importing them takes two seconds, which inference need not wait for."""
    from timm.data import auto_augment

    return auto_augment


def image_augment(name: str, interpolation: str) -> Callable[[Image.Image], Image.Image]:
    """timm's augmentation of an image.

    Args:
        name: AUG.AA_TYPE: RandAugment (`rand-m7-n4-mstd0.5-inc1`; arXiv 1909.13719), AutoAugment (`v0`,
            `original-mstd0.5`; arXiv 1805.09501) or AugMix (`augmix-m5-w4-d2`; arXiv 1912.02781).
        interpolation: AUG.INTERPOLATION of geometric operations: nearest, bilinear, bicubic, or random (of the last
            two).

    Raises:
        UserError: There is no such augmentation; the message names the key.
    """
    options = {} if interpolation == "random" else {"interpolation": Image.Resampling[interpolation.upper()]}
    build = {"rand": _timm().rand_augment_transform, "augmix": _timm().augment_and_mix_transform}
    try:
        return build.get(name.split("-")[0], _timm().auto_augment_transform)(name, options)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"AUG.AA_TYPE: {name!r} is not an augmentation of timm ({error}); examples are "
            "'rand-m7-n4-mstd0.5-inc1', 'original', 'augmix-m3-w3', and '' for none"
        ) from None


def clip_augment(name: str, interpolation: str) -> Callable[[int, int], tuple[Operation, ...]]:
    """A function that makes the draws of `image_augment` for frames of a height and width.

    Draws come from `random` and `numpy.random`, as timm makes them for an image. Each augmented frame then equals the
    augmented single image, except for rounding in geometric operations, where a few values in a thousand differ by 1.
    """
    timms = image_augment(name, interpolation)
    if isinstance(timms, _timm().AugMixAugment):  # it blends images between its operations
        return partial(_draw_augmix, timms)
    chains = [timms.ops] if isinstance(timms, _timm().RandAugment) else timms.policy
    for operation in (operation for chain in chains for operation in chain):
        operation.aug_fn = partial(_record, operation.name, operation.aug_fn)
    return partial(draw, timms)


def draw(timms: Callable, height: int, width: int) -> tuple[Operation, ...]:
    """The operations that timm's augmentation, or one of its operations, whose functions `_record`, draws."""
    recorder = _Recorder(height, width)
    timms(recorder)
    return tuple(recorder.operations)


def _record(name: str, function: Callable, recorder: "_Recorder", *arguments: Any, **options: Any) -> "_Recorder":
    """Takes the place of timm's `function` of an image. Functions that draw or compute a matrix are called: they end
    in a method of the recorder."""
    if name.startswith(("Rotate", "Shear", "Translate", "GaussianBlur")):
        return function(recorder, *arguments, **options)
    recorder.operations.append(Operation(name, arguments))
    return recorder


class _Recorder:
    """Stands in for the image in timm's operations and records them."""

    rotate = Image.Image.rotate

    def __init__(self, height: int, width: int):
        self.size, self.height, self.width = (width, height), height, width
        self.operations: list[Operation] = []

    def copy(self) -> "_Recorder":
        return self

    def transform(self, _size: Any, _method: Any, matrix: Matrix, resample: int, fillcolor: Colour) -> "_Recorder":
        self.operations.append(Operation("Affine", (tuple(matrix), resample, fillcolor)))
        return self

    def transpose(self, method: Image.Transpose) -> "_Recorder":
        """What `rotate` calls for multiples of 90 degrees that keep the size."""
        width, height = self.size
        matrices = {
            Image.Transpose.ROTATE_90: (0, -1, width, 1, 0, 0),
            Image.Transpose.ROTATE_180: (-1, 0, width, 0, -1, height),
            Image.Transpose.ROTATE_270: (0, 1, 0, -1, 0, height),
        }
        return self.transform(None, None, matrices[method], Image.Resampling.BILINEAR, (0, 0, 0))

    def filter(self, blur: ImageFilter.GaussianBlur) -> "_Recorder":
        self.operations.append(Operation("GaussianBlur", (blur.radius,)))
        return self


def _draw_augmix(timms: Callable, _height: int, _width: int) -> tuple[Operation, ...]:
    """AugMix draws while it works: keep the generators' states for later, and advance them on an image of one pixel."""
    states = random.getstate(), np.random.get_state()
    timms(Image.new("RGB", (1, 1)))
    return (Operation("AugMix", (timms, *states)),)


def augment(frames: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
    """Execute operations one after the other on frames, uint8 (T, H, W, 3)."""
    for name, arguments in operations:
        if name == "Affine":
            frames = affine(frames, *arguments)
        elif name == "AugMix":
            frames = _augmix(frames, *arguments)
        elif name.startswith(POINTWISE):
            frames = through_table(frames, point_table(name, arguments))
        elif name.startswith("Sharpness"):
            frames = _sharpness(frames, *arguments)
        else:
            images = (_timm().NAME_TO_OP[name](Image.fromarray(frame), *arguments) for frame in frames)
            frames = np.stack([np.asarray(image) for image in images])
    return frames


def _augmix(frames: np.ndarray, timms: Callable, python_state: tuple, numpy_state: tuple) -> np.ndarray:
    """Apply timm's AugMix to each frame from the given states of `random` and `numpy.random`."""
    states = random.getstate(), np.random.get_state()
    results = np.empty_like(frames)
    for frame, result in zip(frames, results, strict=True):
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        result[:] = np.asarray(timms(Image.fromarray(frame)))
    random.setstate(states[0])
    np.random.set_state(states[1])
    return results


def point_table(name: str, arguments: tuple) -> np.ndarray:
    """The new value of each value, uint8 (256,), of an operation that depends neither on position nor on channel."""
    values = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2))
    return np.ascontiguousarray(np.asarray(_timm().NAME_TO_OP[name](values, *arguments))[0, :, 0])


def through_table(frames: np.ndarray, table: np.ndarray) -> np.ndarray:
    """New values of uint8 frames by a table (256,)."""
    return np.frombuffer(bytearray(frames).translate(table.tobytes()), np.uint8).reshape(frames.shape)


def _sharpness(frames: np.ndarray, factor: float) -> np.ndarray:
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


def affine(frames: np.ndarray, matrix: Matrix, resample: int, fill: Colour) -> np.ndarray:
    """Pillow's affine transform of every frame.

    Args:
        frames: uint8 (T, H, W, 3).
        matrix: (a, b, c, d, e, f): the pixel with centre (x, y) is sampled at (a x + b y + c, d x + e y + f).
        resample: Nearest, bilinear or bicubic.
        fill: Colour of pixels that are sampled outside the frame.
    """
    count, height, width, channels = frames.shape
    whole = Region(0, 0, height, width)
    sources, weights = affine_sources(matrix, resample, (height, width), whole, whole)
    # All frames' values of a pixel are neighbours, so that one lookup serves all frames.
    table = torch.empty(height * width + 1, count * channels)
    table[:-1] = torch.from_numpy(_transpose_pixels(frames.reshape(count, -1, channels)).reshape(height * width, -1))
    table[-1] = torch.tensor(fill).repeat(count)
    moved = look_up(table, sources, weights, resample)
    moved = moved.numpy().astype(np.uint8)  # eight times faster than PyTorch's conversion
    return _transpose_pixels(moved.reshape(height * width, count, channels)).reshape(frames.shape)


def affine_sources(
    matrix: Matrix, resample: int, size: tuple[int, int], source: Region, target: Region, device: str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where an affine transform of frames of a `size` (height, width) takes its pixels from.

    Args:
        source: the part of the frames that is at hand.
        target: the part of the result that is wanted.

    Returns:
        Indices (N, k) into the pixels of `source` in rows, for the N pixels of `target`, with the number of pixels of
        `source` for those outside the frame; and the pixels' weights (N, k).
    """
    height, width = size
    rows, columns = source.size
    a, b, c, d, e, f = matrix
    if resample == Image.Resampling.NEAREST:
        x, y = _nearest(matrix, target, device)
        outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
        sources = (y - source.top).clamp_(0, rows - 1) * columns + (x - source.left).clamp_(0, columns - 1)
        return sources.masked_fill_(outside, rows * columns)[:, None], torch.ones(len(x), 1, device=device)
    x = torch.arange(target.left, target.right, dtype=torch.float64, device=device) + 0.5
    y = torch.arange(target.top, target.bottom, dtype=torch.float64, device=device)[:, None] + 0.5
    x, y = (a * x + b * y + c).flatten(), (d * x + e * y + f).flatten()
    # An axis along which everything moves by whole pixels needs a single tap.
    across_axis, across = _taps(x, width, resample, (a, b) == (1, 0) and c % 1 == 0)
    down_axis, down = _taps(y, height, resample, (d, e) == (0, 1) and f % 1 == 0)
    across_axis, down_axis = (
        (across_axis - source.left).clamp_(0, columns - 1),
        (down_axis - source.top).clamp_(0, rows - 1),
    )
    sources = (down_axis[:, :, None] * columns + across_axis[:, None]).flatten(1)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    sources.masked_fill_(outside[:, None], rows * columns)
    return sources, (down[:, :, None] * across[:, None]).flatten(1)


def look_up(table: torch.Tensor, sources: torch.Tensor, weights: torch.Tensor, resample: int) -> torch.Tensor:
    """Weighted sums of rows of a `table` (pixels, values), which is modified; values that are yet to be truncated.

    Pillow truncates, and float sums can fall just short of whole numbers, hence the small addend.
    """
    table += 2**-12
    moved = embedding_bag(sources, table, per_sample_weights=weights, mode="sum")
    return moved.clamp_(0, 255) if resample == Image.Resampling.BICUBIC else moved  # bicubic overshoots


def affine_needs(matrix: Matrix, _resample: int, _fill: Colour, size: tuple[int, int], target: Region) -> Region:
    """The part of frames of a `size` that `target` of their affine transform depends on; at least one pixel."""
    a, b, c, d, e, f = matrix
    corners = [(x, y) for x in (target.left, target.right) for y in (target.top, target.bottom)]
    columns, rows = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
    (top, bottom), (left, right) = (
        (min(max(math.floor(min(places)) - 2, 0), length - 1), min(max(math.ceil(max(places)) + 2, 1), length))
        for places, length in ((rows, size[0]), (columns, size[1]))
    )
    return Region(top, left, bottom, right)


def _nearest(matrix: Matrix, target: Region, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns and rows, both (N,), that Pillow's nearest filter takes: it works with integers of 1/65536 of a pixel,
    unless axes are only moved and scaled."""
    a, b, c, d, e, f = matrix
    x = torch.arange(target.left, target.right, dtype=torch.int64, device=device)[None]
    y = torch.arange(target.top, target.bottom, dtype=torch.int64, device=device)[:, None]
    if b == 0 and d == 0:
        columns, rows = (a * x.double() + (c + a / 2)).floor().long(), (e * y.double() + (f + e / 2)).floor().long()
    else:
        a, b, c, d, e, f = (
            math.floor(65536.0 * value + 0.5) for value in (a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2)
        )
        columns, rows = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    shape = target.size
    return columns.expand(shape).flatten(), rows.expand(shape).flatten()


def _transpose_pixels(values: np.ndarray) -> np.ndarray:
    """(A, B, 3) to (B, A, 3), with a pixel as one item of three bytes."""
    return np.ascontiguousarray(values.view("V3")[..., 0].T)[..., None].view(np.uint8)


def _taps(
    position: torch.Tensor, length: int, resample: Image.Resampling, single: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and weights, both (N, k), of the pixels that are interpolated at each position (N) of a line.

    With `single`, positions are centres of pixels, and all taps but one have no weight. Pixels beyond the ends repeat
    the outermost ones. Bicubic is Keys's kernel (IEEE TASSP 29, 1981) with a = -1, as in Pillow.
    """
    first = (position - 0.5).floor()
    if single:
        return first.int()[:, None].clamp_(0, length - 1), torch.ones(len(first), 1, device=position.device)
    r = (position - 0.5 - first).float()
    if resample == Image.Resampling.BILINEAR:
        start, weights = 0, [1 - r, r]
    else:
        start, weights = -1, [r * (r * (2 - r) - 1), r * r * (r - 2) + 1, r * (1 + r - r * r), r * r * (r - 1)]
    taps = torch.arange(start, start + len(weights), dtype=torch.int32, device=position.device)
    return (first.int()[:, None] + taps).clamp_(0, length - 1), torch.stack(weights, 1)
