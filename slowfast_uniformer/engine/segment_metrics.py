"""Scores of segments in videos against annotated ones: frame-wise accuracy, segment F1, and mAP at temporal IoU.

Segment F1 is counted as in Lea et al., Temporal Convolutional Networks for Action Segmentation and Detection (CVPR
2017), with counts summed over videos; mAP as in the detection task of ActivityNet (Heilbron et al., CVPR 2015). Neither
counts segments of the background class.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

F1_THRESHOLDS = (0.1, 0.25, 0.5)
MAP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # 0.5 to 0.95
ROUNDING = 1e-3  # seconds to which times of segments may be rounded


class Segment(NamedTuple):
    """A class from `start` to `end` (seconds), the end not included; of a prediction with its probability."""

    start: float
    end: float
    label: int
    probability: float = 1.0


class VideoSegments(NamedTuple):
    """The segments of a video.

    Attributes:
        annotated: Events, which may overlap and leave gaps.
        predicted: Segments that do not overlap.
        frames: Number of frames of the video.
        fps: Its frames per second.
    """

    annotated: Sequence[Segment]
    predicted: Sequence[Segment]
    frames: int
    fps: float


def score(videos: Sequence[VideoSegments], background: int | None = None) -> dict[str, Any]:
    """All scores, in per cent; nan where there is nothing to count.

    Args:
        videos: Annotated and predicted segments.
        background: The class that stands for no event, or None.

    Returns:
        A dict of
            videos, events, predicted: numbers of videos, and of annotated and predicted segments of other classes than
                the background;
            frames, frame_accuracy: see `right_frames`;
            segment_f1: F1 at each of F1_THRESHOLDS;
            map: mean over classes with events of the average precision, at each of MAP_THRESHOLDS;
            mean_map: the mean of these;
            classes: for each label with segments its `events`, `predicted`, `segment_f1` at 0.5, and `ap`, the mean
                over MAP_THRESHOLDS (nan for a class without events).
    """
    events = [[each for each in video.annotated if each.label != background] for video in videos]
    found = [[each for each in video.predicted if each.label != background] for video in videos]
    counts = dict.fromkeys(F1_THRESHOLDS, np.zeros(3, np.int64))
    precisions, classes = [], {}
    for label in sorted({each.label for segments in events + found for each in segments}):
        true = [[each for each in segments if each.label == label] for segments in events]
        guessed = [[each for each in segments if each.label == label] for segments in found]
        of_class = {threshold: _count(true, guessed, threshold) for threshold in F1_THRESHOLDS}
        counts = {threshold: counts[threshold] + of_class[threshold] for threshold in F1_THRESHOLDS}
        precision = average_precision(true, guessed)
        classes[label] = {
            "events": sum(map(len, true)),
            "predicted": sum(map(len, guessed)),
            "segment_f1": f1(*of_class[0.5]),
            "ap": 100 * float(precision.mean()),
        }
        precisions += [precision] if any(true) else []
    means = 100 * np.mean(precisions, axis=0) if precisions else np.full(len(MAP_THRESHOLDS), math.nan)
    right, frames = (sum(column) for column in zip((0, 0), *(right_frames(v, background) for v in videos), strict=True))
    return {
        "videos": len(videos),
        "events": sum(map(len, events)),
        "predicted": sum(map(len, found)),
        "frames": frames,
        "frame_accuracy": 100 * right / frames if frames else math.nan,
        "segment_f1": {threshold: f1(*counts[threshold]) for threshold in F1_THRESHOLDS},
        "map": dict(zip(MAP_THRESHOLDS, means.tolist(), strict=True)),
        "mean_map": float(means.mean()),
        "classes": classes,
    }


def right_frames(video: VideoSegments, background: int | None = None) -> tuple[int, int]:
    """How many frames have a predicted class that is annotated there, and of how many.

    Frame n is at n / fps. Without events a frame is of the background; without a background class such frames are not
    counted. Where nothing is predicted, the background is.
    """
    predicted = np.full(video.frames, -1 if background is None else background)
    for each in video.predicted:
        predicted[_frames(each, video.fps)] = each.label
    annotated, right = np.zeros((2, video.frames), bool)
    for each in video.annotated:
        if each.label != background:
            inside = _frames(each, video.fps)
            annotated[inside] = True
            right[inside] |= predicted[inside] == each.label
    if background is None:
        return int(right.sum()), int(annotated.sum())
    right |= ~annotated & (predicted == background)
    return int(right.sum()), video.frames


def _frames(segment: Segment, fps: float) -> slice:
    """The frames in a segment."""
    tolerance = min(ROUNDING, 0.25 / fps)
    first, end = (max(0, math.ceil((time - tolerance) * fps)) for time in segment[:2])
    return slice(first, end)


def overlaps(one: Segment, others: Sequence[Segment]) -> np.ndarray:
    """Intersection over union (N,) in time of a segment and `others`; 0 for what has no length."""
    starts, ends = (np.array([other[side] for other in others]) for side in (0, 1))
    intersection = np.clip(np.minimum(ends, one.end) - np.maximum(starts, one.start), 0, None)
    union = (ends - starts) + (one.end - one.start) - intersection
    return np.divide(intersection, union, out=np.zeros(len(others)), where=union > 0)


def f1(right: int, wrong: int, missed: int) -> float:
    """F1 in per cent of counts of segments; nan if there are none."""
    total = 2 * right + wrong + missed
    return 100 * 2 * float(right) / float(total) if total else math.nan


def count_segments(events: Sequence[Segment], predicted: Sequence[Segment], threshold: float) -> tuple[int, int, int]:
    """Right, wrong and missed segments of one class in one video.

    In the order of time each predicted segment takes the event that it overlaps most. It is right if their IoU is at
    least `threshold` and no segment before it has taken that event.
    """
    taken: set[int] = set()
    for each in sorted(predicted):
        found = overlaps(each, events)
        best = int(found.argmax()) if len(found) else -1
        if best >= 0 and found[best] >= threshold:
            taken.add(best)
    return len(taken), len(predicted) - len(taken), len(events) - len(taken)


def _count(events: Sequence[Sequence[Segment]], predicted: Sequence[Sequence[Segment]], threshold: float) -> np.ndarray:
    """The sum over videos of `count_segments`."""
    counts = [count_segments(*of_video, threshold) for of_video in zip(events, predicted, strict=True)]
    return np.array(counts).sum(axis=0)


def average_precision(
    events: Sequence[Sequence[Segment]],
    predicted: Sequence[Sequence[Segment]],
    thresholds: Sequence[float] = MAP_THRESHOLDS,
) -> np.ndarray:
    """Interpolated average precision (0 to 1) of one class at each threshold of IoU; nan if there are no events.

    From the most probable on, each predicted segment takes the event of its video that it overlaps most, of those that
    are not taken yet, if their IoU is at least the threshold.

    Args:
        events: Annotated segments of the class by video.
        predicted: Predicted ones by video.
        thresholds: Of IoU.
    """
    total = sum(map(len, events))
    if not total:
        return np.full(len(thresholds), math.nan)
    ranked = [(each, number) for number, segments in enumerate(predicted) for each in segments]
    ranked.sort(key=lambda row: -row[0].probability)
    found = [(number, overlaps(each, events[number])) for each, number in ranked]
    return np.array([_interpolated(_hits(found, threshold), total) for threshold in thresholds])


def _hits(found: Sequence[tuple[int, np.ndarray]], threshold: float) -> np.ndarray:
    """Whether each predicted segment takes an event (N,), of its video and the IoU with that video's events."""
    taken: set[tuple[int, int]] = set()
    hits = np.zeros(len(found), bool)
    for row, (video, ious) in enumerate(found):
        for event in np.argsort(-ious, kind="stable").tolist():
            if ious[event] < threshold:
                break
            if (video, event) not in taken:
                taken.add((video, event))
                hits[row] = True
                break
    return hits


def _interpolated(hits: np.ndarray, total: int) -> float:
    """The area below the curve of precision over recall, where precision is the highest at this recall or above."""
    right = hits.cumsum()
    precision = right / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hits].sum() / total)
