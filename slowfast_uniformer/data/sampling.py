"""Which frames of a video make a clip, decided before anything is decoded.

Frame numbers count from 0. A training clip (`view` None) is drawn from Python's `random`, which the caller
seeds; view k of n is fixed. The integers are those of the UniFormer and UniFormerV2 releases.
"""

import math
import random

import numpy as np
import torch


def dense(
    total: int,
    num_frames: int,
    rate: int,
    view: int | None = None,
    num_views: int = 1,
    use_offset: bool = False,
    fps: float | None = None,
    target_fps: float | None = None,
) -> np.ndarray:
    """Frame numbers (num_frames,) evenly spaced over one window of num_frames * rate frames (SlowFast, arXiv
    1812.03982, section 4).

    The window starts anywhere at random, or is view `view` of `num_views`: it starts after view / num_views
    of the frames that it leaves free, or with `use_offset` the views lie at whole frames from end to end and
    a single one in the centre. With `fps` and `target_fps` the window lasts as long as num_frames * rate
    frames last at target_fps. Numbers beyond the end of a short video become its last frame.
    """
    window = num_frames * rate if fps is None else num_frames * rate / target_fps * fps
    free = max(total - window, 0)
    if view is None:
        start = random.uniform(0, free)
    elif not use_offset:
        start = free * view / num_views
    else:
        start = math.floor(free / 2) if num_views == 1 else view * math.floor(free / (num_views - 1))
    # float32 and truncation, as the releases have it: NumPy's linspace gives other integers here and there
    numbers = torch.linspace(start, start + window - 1, num_frames)
    return numbers.clamp(0, total - 1).long().numpy()


def sparse(
    total: float, num_frames: int, view: int | None = None, num_views: int = 1, start: int = 0, last: int | None = None
) -> np.ndarray:
    """Frame numbers (num_frames,), one in each of num_frames equal segments (TSN, arXiv 1608.00859).

    A random frame of each segment, or for view `view` of `num_views` the one at (view + 1) / (num_views + 1)
    of it. An annotated part of a video begins at frame `start` and is `total` frames long, not necessarily a
    whole number; its frames are kept from lying beyond `last` (the part's own last frame where that is None).
    """
    segment = max(0.0, (total - 1) / num_frames)
    edges = np.round(segment * np.arange(num_frames + 1)).astype(np.int64)
    if view is None:
        bounds = edges.tolist()  # plain integers, as `random` wants them
        numbers = np.array([random.randint(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)])
    else:
        numbers = edges[:-1] + int(segment / (num_views + 1) * (view + 1))
    return np.minimum(numbers + start, start + int(total) - 1 if last is None else last)


def split_view(index: int, num_spatial_crops: int) -> tuple[int, int]:
    """(temporal view, spatial crop) of test view `index`; a single crop is the centre one (1)."""
    temporal, spatial = divmod(index, num_spatial_crops)
    return temporal, spatial if num_spatial_crops > 1 else 1
