"""Timelines of long videos: smoothing and shortest segments."""

from collections.abc import Sequence

import numpy as np
import torch

from slowfast_uniformer.inference.predictor import Span


def smoothed(spans: Sequence[Span], seconds: float, how: str = "mean") -> list[Span]:
    """Spans with each class's probability averaged over the time around them.

    Args:
        spans: of a timeline.
        seconds: length of the time around the middle of each span; at the ends of the video the part that is in it.
        how: "mean" over time, or "median" of the spans whose middles are in it.
    """
    if not spans or seconds <= 0:
        return list(spans)
    edges = np.array([span.start for span in spans] + [spans[-1].end])
    values = torch.stack([span.probabilities for span in spans]).double().numpy()  # (N, K)
    middles = (edges[:-1] + edges[1:]) / 2
    starts, ends = np.maximum(middles - seconds / 2, edges[0]), np.minimum(middles + seconds / 2, edges[-1])
    if how == "mean":
        sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * np.diff(edges)[:, None], axis=0)])
        totals = [np.interp(ends, edges, column) - np.interp(starts, edges, column) for column in sums.T]
        found = np.stack(totals, axis=1) / (ends - starts)[:, None]
    else:
        tolerance = 1e-6  # middles are sums of rounded numbers
        first, last = np.searchsorted(middles, starts - tolerance), np.searchsorted(middles, ends + tolerance)
        found = np.stack([np.median(values[a:b], axis=0) for a, b in zip(first, last, strict=True)])
    rows = torch.from_numpy(found).to(spans[0].probabilities.dtype)
    return [Span(span.start, span.end, row) for span, row in zip(spans, rows, strict=True)]


class _Run:
    """Spans `first` to `last` - 1, which have the same label."""

    def __init__(self, label: int, first: int, last: int, seconds: float):
        self.label, self.first, self.last, self.seconds = label, first, last, seconds


def span_labels(spans: Sequence[Span], min_length: float = 0.0) -> list[int]:
    """The most probable class of each span, without segments shorter than `min_length` seconds.

    The shortest one goes first: to the neighbour whose class is the more probable in it. A video that is shorter in all
    has one class.
    """
    runs: list[_Run] = []
    for number, span in enumerate(spans):
        _append(runs, _Run(int(span.probabilities.argmax()), number, number + 1, span.end - span.start))
    while len(runs) > 1:
        at = min(range(len(runs)), key=lambda number: runs[number].seconds)
        if runs[at].seconds >= min_length - 1e-6:
            break
        inside = spans[runs[at].first : runs[at].last]
        total = sum(span.probabilities * (span.end - span.start) for span in inside)
        runs[at].label = max((run.label for run in _neighbours(runs, at)), key=lambda label: float(total[label]))
        around = runs[max(at - 1, 0) : at + 2]
        joined: list[_Run] = []
        for run in around:
            _append(joined, run)
        runs[max(at - 1, 0) : at + 2] = joined
    return [run.label for run in runs for _ in range(run.first, run.last)]


def _neighbours(runs: Sequence[_Run], at: int) -> list[_Run]:
    return [runs[number] for number in (at - 1, at + 1) if 0 <= number < len(runs)]


def _append(runs: list[_Run], run: _Run) -> None:
    """Add a run at the end, or to the last one where it has the same label."""
    if runs and runs[-1].label == run.label:
        runs[-1].last, runs[-1].seconds = run.last, runs[-1].seconds + run.seconds
    else:
        runs.append(run)
