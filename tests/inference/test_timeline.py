"""Smoothing of timelines and their shortest segments."""

import random

import pytest
import torch

from slowfast_uniformer.inference.predict import segments
from slowfast_uniformer.inference.predictor import Span
from slowfast_uniformer.inference.timeline import smoothed, span_labels


def spans(values, step: float = 1.0) -> list[Span]:
    """Of two classes, by the probability of the second one."""
    return [Span(n * step, (n + 1) * step, torch.tensor([1 - p, p])) for n, p in enumerate(values)]


def second(found: list[Span]) -> list[float]:
    return [round(float(span.probabilities[1]), 6) for span in found]


def test_moving_average_by_hand():
    found = smoothed(spans([0.0, 0.0, 0.9, 0.0, 0.0]), 3.0)
    # of 3 s, and at the ends of the 2 s that there are: half of a second less on one side
    assert second(found) == [0.0, 0.3, 0.3, 0.3, 0.0]
    assert [(span.start, span.end) for span in found] == [(n, n + 1) for n in range(5)]
    half = smoothed(spans([0.0, 0.6, 0.6]), 2.0)  # half of each neighbour
    assert second(half) == pytest.approx([0.2, 0.45, 0.6])


def test_spans_of_different_lengths_count_by_their_time():
    row = [Span(0, 4, torch.tensor([0.0, 1.0])), Span(4, 5, torch.tensor([1.0, 0.0]))]
    assert second(smoothed(row, 100.0)) == [0.8, 0.8]


def test_moving_median_keeps_edges_and_drops_single_spans():
    values = [0.1, 0.1, 0.9, 0.1, 0.1, 0.8, 0.8, 0.8]
    assert second(smoothed(spans(values, 0.1), 0.3, "median")) == [0.1, 0.1, 0.1, 0.1, 0.1, 0.8, 0.8, 0.8]


@pytest.mark.parametrize("how", ["mean", "median"])
def test_nothing_to_smooth(how):
    assert smoothed([], 3.0, how) == [] and second(smoothed(spans([0.4]), 3.0, how)) == [0.4]
    assert second(smoothed(spans([0.4, 0.6]), 0.0, how)) == [0.4, 0.6]
    assert second(smoothed(spans([0.4, 0.6]), 0.01, how)) == [0.4, 0.6]


def test_short_segments_join_the_more_probable_neighbour():
    rows = [[0.8, 0.1, 0.1]] * 3 + [[0.1, 0.5, 0.4]] + [[0.1, 0.1, 0.8]] * 3
    row = [Span(n, n + 1, torch.tensor(p)) for n, p in enumerate(rows)]
    assert span_labels(row) == [0, 0, 0, 1, 2, 2, 2]
    assert span_labels(row, 1.0) == span_labels(row)  # not shorter
    assert span_labels(row, 1.5) == [0, 0, 0, 2, 2, 2, 2]
    assert [(part["start"], part["end"]) for part in segments(row, "abc", 1.5)] == [(0, 3), (3, 7)]
    assert segments(row, "abc", 1.5)[1]["probability"] == pytest.approx((0.4 + 3 * 0.8) / 4)
    assert span_labels(row, 99.0) == [2] * 7 or span_labels(row, 99.0) == [0] * 7
    assert span_labels([], 1.0) == []


def test_a_segment_between_two_of_one_class_joins_both():
    assert span_labels(spans([0.9, 0.9, 0.2, 0.9, 0.9, 0.1]), 1.5) == [1] * 6


@pytest.mark.parametrize("seed", range(5))
def test_no_segment_is_shorter(seed):
    rng = random.Random(seed)
    row = spans([rng.random() for _ in range(60)], 0.5)
    parts = segments(row, "ab", 2.0)
    assert parts[0]["start"] == 0 and parts[-1]["end"] == 30
    assert all(part["end"] - part["start"] >= 2.0 for part in parts)
    assert all(a["end"] == b["start"] and a["label"] != b["label"] for a, b in zip(parts, parts[1:], strict=False))
