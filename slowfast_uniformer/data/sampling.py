"""Temporal sampling: which frames of a video make a clip, decided before anything is decoded.

Frame numbers count from 0. A training clip (`view` None) is drawn from Python's `random`, which the caller
seeds; view k of n is fixed. The numbers are exactly those of the UniFormer and UniFormerV2 releases.
"""

import math
import random

import numpy as np


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
    """Dense sampling: frames evenly spaced over a window of num_frames * rate frames (SlowFast, arXiv
    1812.03982, section 4).

    Args:
        total: Frames of the video.
        num_frames: Frames of the clip, T.
        rate: Temporal stride (DATA.SAMPLING_RATE).
        view: Temporal view from 0; None for a random window.
        num_views: Number of temporal views. View k starts after k / num_views of the frames outside the window.
        use_offset: Start the views at whole frames, spread from the first possible start to the last; a single
            view is centred.
        fps: Frame rate of the video, in frames per second; with `target_fps`, the window lasts as long as
            num_frames * rate frames at that rate.
        target_fps: DATA.TARGET_FPS; used with `fps`.

    Returns:
        Frame numbers (T,) int64. Numbers beyond the end of a short video are its last frame.
    """
    window = num_frames * rate if fps is None else num_frames * rate / target_fps * fps
    free = max(total - window, 0)
    if view is None:
        start = random.uniform(0, free)
    elif not use_offset:
        start = free * view / num_views
    else:
        start = math.floor(free / 2) if num_views == 1 else view * math.floor(free / (num_views - 1))
    import torch  # here, as the processes of `uniformer check` do without it, and start in a fifth of the time

    # float32 and truncation, as in the releases: NumPy's linspace gives other integers in some cases
    numbers = torch.linspace(start, start + window - 1, num_frames)
    return numbers.clamp(0, total - 1).long().numpy()


def sparse(
    total: float, num_frames: int, view: int | None = None, num_views: int = 1, start: int = 0, last: int | None = None
) -> np.ndarray:
    """Sparse sampling: one frame of each of num_frames equal segments (TSN, arXiv 1608.00859, section 3.1).

    Args:
        total: Frames of the video or of its annotated part; a part's length need not be a whole number.
        num_frames: Frames of the clip, T.
        view: Temporal view from 0; None for a random frame of each segment.
        num_views: Number of temporal views. View k takes the frame at (k + 1) / (num_views + 1) of each segment.
        start: First frame of the annotated part.
        last: Largest frame number allowed; None for the last frame of the part.

    Returns:
        Frame numbers (T,) int64.
    """
    segment = max(0.0, (total - 1) / num_frames)
    edges = np.round(segment * np.arange(num_frames + 1)).astype(np.int64)
    if view is None:
        bounds = edges.tolist()  # Python's integers, as `random` takes them
        numbers = np.array([random.randint(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)])
    else:
        numbers = edges[:-1] + int(segment / (num_views + 1) * (view + 1))
    return np.minimum(numbers + start, start + int(total) - 1 if last is None else last)


def split_view(index: int, num_spatial_crops: int) -> tuple[int, int]:
    """(temporal view, spatial crop) of test view `index`; a single crop is the centre crop (1)."""
    temporal, spatial = divmod(index, num_spatial_crops)
    return temporal, spatial if num_spatial_crops > 1 else 1
