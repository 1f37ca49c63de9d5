"""Clips on their way from a DataLoader worker to the device that makes them (AUG.DEVICE): pixels and plans."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from slowfast_uniformer.data.augment import POINTWISE, Operation, Region, augment, point_table, through_table
from slowfast_uniformer.data.device_transforms import (
    autocontrast_tables,
    contrast_tables,
    equalize_tables,
    execute,
    is_of_whole_frames,
    needed_regions,
)
from slowfast_uniformer.data.transforms import ClipMaker, ClipPlan, Frames, Normalisation

ALIGNMENT = 16  # bytes between beginnings of arrays in a buffer, so that each can be viewed as float32


def transforms_on_device(cfg: CfgNode) -> bool:
    """Whether clips are made in the process that runs the model, on its device (AUG.DEVICE)."""
    return cfg.AUG.DEVICE == "device" or (cfg.AUG.DEVICE == "auto" and cfg.NUM_GPUS > 0)


def to_device(clips: "torch.Tensor | RawClips", device: torch.device | str) -> torch.Tensor:
    """A tensor copied to a device, or `RawClips` as the clips that are made there of them."""
    return clips.make(device) if isinstance(clips, RawClips) else clips.to(device, non_blocking=True)


class Stored(NamedTuple):
    """An array in a buffer: its first byte, dtype and shape."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        end = self.start + math.prod(self.shape) * self.dtype.itemsize
        return buffer[self.start : end].view(self.dtype).view(self.shape)


class RawClip(NamedTuple):
    """A clip to be made. Its arrays are NumPy's in a worker, `Stored` on their way, tensors on the device.

    Attributes:
        source: uint8 pixels (frames, h, w, 3); or where `plan` is None the finished clip, float32.
        region: the part of the whole frames that they are.
        size: (height, width) of the whole frames.
        rows: the clip's frames among them; None for all.
        plan: what becomes of them. Tables of its operations ("Table") and the noise of its patches are arrays, too.
    """

    source: Any
    region: Region | None = None
    size: tuple[int, int] | None = None
    rows: tuple[int, ...] | None = None
    plan: ClipPlan | None = None

    def with_arrays(self, change: Callable[[Any], Any]) -> "RawClip":
        """The same clip with `change(array)` in place of each of its arrays."""
        source, plan = change(self.source), self.plan
        if plan is not None:
            operations = [
                Operation(name, tuple(map(change, arguments)) if name == "Table" else arguments)
                for name, arguments in plan.operations
            ]
            patches = [
                patch if patch.values is None else patch._replace(values=change(patch.values)) for patch in plan.patches
            ]
            plan = plan._replace(operations=tuple(operations), patches=tuple(patches))
        return self._replace(source=source, plan=plan)


@dataclass
class RawClips:
    """Clips to be made on a device.

    Attributes:
        buffer: uint8, all arrays of the clips: a tensor for each would cost a file handle on its way.
        clips: what to make.
        values: normalisation.
        shape: (3, T, height, width) of each clip.
    """

    buffer: torch.Tensor
    clips: list[RawClip]
    values: Normalisation
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return len(self.clips)

    def pin_memory(self) -> "RawClips":
        """The same in page-locked memory; the DataLoader calls it."""
        return replace(self, buffer=self.buffer.pin_memory())

    @torch.no_grad()
    def make(self, device: torch.device | str) -> torch.Tensor:
        """The clips (N, 3, T, height, width), float32. There are no random draws left to make."""
        buffer = self.buffer.to(device, non_blocking=True)
        clips = torch.empty(len(self), *self.shape, device=device)
        for clip, stored in zip(clips, self.clips, strict=True):
            raw = stored.with_arrays(lambda array: array.view(buffer))
            if raw.plan is None:
                clip.copy_(raw.source)
                continue
            frames = raw.source if raw.rows is None else torch.stack([raw.source[row] for row in raw.rows])
            execute(frames, raw.region, raw.size, raw.plan, self.values, clip)
        return clips


def join_clips(items: Sequence[torch.Tensor | RawClips]) -> torch.Tensor | RawClips:
    """The clips of several videos as one batch."""
    if not isinstance(items[0], RawClips):
        return torch.cat(items)
    clips, length = [], 0
    for item in items:
        clips += [
            clip.with_arrays(lambda array, add=length: array._replace(start=array.start + add)) for clip in item.clips
        ]
        length += len(item.buffer)
    return RawClips(torch.cat([item.buffer for item in items]), clips, items[0].values, items[0].shape)


def pack(frames: Frames, plans: Sequence[ClipPlan], maker: ClipMaker, rows: np.ndarray | None = None) -> RawClips:
    """Put together what a device needs to make clips of a video, in as few bytes as that takes.

    Clips that are smaller than the part of the frames that they need (of 4K videos, say) are made here.

    Args:
        frames: uint8 (F, H, W, 3).
        plans: of the clips, which are of equal shape.
        maker: makes clips here, and has the normalisation.
        rows: each clip's frames (N, T) among them, of plans without operations; None if each has all.
    """
    frames = np.asarray(frames)
    shape = (3, len(frames) if rows is None else rows.shape[1], *plans[0].size)
    clips = _raw_clips(frames, plans, rows)
    buffer, stored = _store(clips)
    if len(buffer) >= 4 * len(plans) * math.prod(shape):
        of_clips = [frames] * len(plans) if rows is None else [frames[row] for row in rows]
        clips = [RawClip(maker.execute(own, plan).numpy()) for own, plan in zip(of_clips, plans, strict=True)]
        buffer, stored = _store(clips)
    return RawClips(buffer, stored, maker.normalisation(), shape)


def _raw_clips(frames: np.ndarray, plans: Sequence[ClipPlan], rows: np.ndarray | None) -> list[RawClip]:
    """The clips of `pack`: with the same pixels for all, or each with its own where these are fewer together."""
    size = frames.shape[1:3]
    settled = [_settle(frames, plan) for plan in plans]
    regions = [needed_regions(plan, size)[0] for _, plan in settled]
    tops, lefts, bottoms, rights = zip(*regions, strict=True)
    union = Region(min(tops), min(lefts), max(bottoms), max(rights))
    of_rows = [None if rows is None else tuple(rows[n].tolist()) for n in range(len(plans))]
    own = sum(
        (len(frames) if row is None else len(row)) * math.prod(r.size) for row, r in zip(of_rows, regions, strict=True)
    )
    if all(source is frames for source, _ in settled) and len(frames) * math.prod(union.size) <= own:
        part = _part(frames, union)
        return [RawClip(part, union, size, row, plan) for row, (_, plan) in zip(of_rows, settled, strict=True)]
    clips = []
    for row, region, (source, plan) in zip(of_rows, regions, settled, strict=True):
        source = source if row is None else source[list(row)]
        clips.append(RawClip(_part(source, region), region, size, None, plan))
    return clips


def _part(frames: np.ndarray, region: Region) -> np.ndarray:
    return frames[:, region.top : region.bottom, region.left : region.right]


def _store(clips: Sequence[RawClip]) -> tuple[torch.Tensor, list[RawClip]]:
    """A buffer with all arrays of clips, each once, and the clips with `Stored` in their place."""
    arrays: dict[int, tuple[Any, Stored]] = {}
    length = 0

    def store(array: np.ndarray | torch.Tensor) -> Stored:
        nonlocal length
        if id(array) not in arrays:
            values = np.asarray(array)
            arrays[id(array)] = array, Stored(length, getattr(torch, values.dtype.name), values.shape)
            length += -(-values.nbytes // ALIGNMENT) * ALIGNMENT
        return arrays[id(array)][1]

    stored = [clip.with_arrays(store) for clip in clips]
    buffer = torch.empty(length, dtype=torch.uint8)
    for array, place in arrays.values():
        place.view(buffer).numpy()[...] = array
    return buffer, stored


def _settle(frames: np.ndarray, plan: ClipPlan) -> tuple[np.ndarray, ClipPlan]:
    """Do what a device cannot do (AugMix), and replace operations that change values by tables by these tables.

    The tables of some operations follow from whole frames. Those before operations of other kinds are found here, so
    that the device need not have whole frames.

    Returns:
        The frames and a plan for `device_transforms.execute`.
    """
    if plan.operations and plan.operations[0].name == "AugMix":
        return augment(frames, plan.operations), plan._replace(operations=())
    result: list[Operation] = []
    known = True  # whether the values so far follow from a single table, if any
    for name, arguments in plan.operations:
        table = None
        if name.startswith(POINTWISE):
            table = point_table(name, arguments)
        elif known and is_of_whole_frames(name):
            before = _after(frames, result[0].arguments[0]) if result else frames
            table = _tables(before, name, arguments)
        if table is None:
            known = False
            result.append(Operation(name, arguments))
        elif result and result[-1].name == "Table":
            result[-1] = Operation("Table", (_composed(result[-1].arguments[0], table),))
        else:
            result.append(Operation("Table", (np.ascontiguousarray(table),)))
    return frames, plan._replace(operations=tuple(result))


def _composed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The table of two tables, (256,) or (T, 3, 256), one after the other."""
    if second.ndim == 1:
        return second[first]
    return np.take_along_axis(second, np.broadcast_to(first, second.shape).astype(np.int64), -1)


def _after(frames: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Frames after a table, (256,) or (T, 3, 256)."""
    if table.ndim == 1:
        return through_table(frames, table)
    pairs = zip(frames, table.reshape(len(frames), -1).tolist(), strict=True)
    return np.stack([np.asarray(Image.fromarray(frame).point(values)) for frame, values in pairs])


def _tables(frames: np.ndarray, name: str, arguments: tuple) -> np.ndarray:
    """The tables (T, 3, 256) by which an operation that depends on whole frames (T, H, W, 3) changes them."""
    count, height, width, _ = frames.shape
    if name == "AutoContrast":
        # Along columns first: that is one pass over rows of neighbouring bytes.
        low, high = frames.min(1).min(1), frames.max(1).max(1)
        return autocontrast_tables(torch.from_numpy(low), torch.from_numpy(high)).numpy()
    if name == "Equalize":
        counts = torch.tensor([Image.fromarray(frame).histogram() for frame in frames]).view(count, 3, 256)
        return equalize_tables(counts).numpy()
    column = Image.fromarray(frames.reshape(count * height, width, 3))  # all frames in one call
    total = np.asarray(column.convert("L")).reshape(count, -1).sum(1, dtype=np.int64)
    mean = (2 * total + height * width) // (2 * height * width)
    return contrast_tables(torch.from_numpy(mean), *arguments).numpy()
