"""Scores of segments: by hand, against slow references written another way, and where there is little to count."""

import math
import random

import pytest

from slowfast_uniformer.engine.segment_metrics import (
    F1_THRESHOLDS,
    MAP_THRESHOLDS,
    Segment,
    VideoSegments,
    average_precision,
    count_segments,
    overlaps,
    right_frames,
    score,
)

A, B, BACKGROUND = 0, 1, 2


def video(annotated=(), predicted=(), frames=100, fps=10.0) -> VideoSegments:
    return VideoSegments([Segment(*each) for each in annotated], [Segment(*each) for each in predicted], frames, fps)


# --------------------------------------------------------------------------------------------------------- by hand
def test_three_events_by_hand():
    """IoU of the predicted segments: A 3/5, a second one of A 1/5 with the same event, B 2/4."""
    annotated = [(0, 4, A), (6, 8, B)]
    predicted = [(0, 1, BACKGROUND), (1, 5, A, 0.9), (5, 9, B, 0.6), (9, 10, A, 0.8)]
    found = score([video(annotated, predicted)], BACKGROUND)
    assert overlaps(Segment(1, 5, A), [Segment(0, 4, A)]).tolist() == [pytest.approx(0.6)]
    assert (found["videos"], found["events"], found["predicted"], found["frames"]) == (1, 2, 3, 100)
    # right: A in 1 to 4, B in 6 to 8; background of 4 to 6, 8 to 10 never
    assert found["frame_accuracy"] == pytest.approx(50.0)
    # 2 right, 1 wrong (A at 9), none missed: 2 x 2 / (2 x 2 + 1)
    assert found["segment_f1"] == {threshold: pytest.approx(80.0) for threshold in F1_THRESHOLDS}
    # A: 1.0 up to IoU 0.6, then 0; B: 1.0 at IoU 0.5 alone
    assert found["map"] == {t: pytest.approx({0.5: 100, 0.55: 50, 0.6: 50}.get(t, 0)) for t in MAP_THRESHOLDS}
    assert found["mean_map"] == pytest.approx(20.0)
    assert found["classes"] == {
        A: {"events": 1, "predicted": 2, "segment_f1": pytest.approx(200 / 3), "ap": pytest.approx(30.0)},
        B: {"events": 1, "predicted": 1, "segment_f1": pytest.approx(100.0), "ap": pytest.approx(10.0)},
    }


def test_average_precision_is_interpolated():
    """Of 4 events: right, wrong, right, right. Precision 1, 1/2, 2/3, 3/4; interpolated 1, 3/4, 3/4 at the hits."""
    events = [[Segment(10 * n, 10 * n + 5, A) for n in range(4)]]
    predicted = [[Segment(0, 5, A, 0.9), Segment(6, 9, A, 0.8), Segment(10, 15, A, 0.7), Segment(20, 25, A, 0.6)]]
    assert average_precision(events, predicted, [0.5])[0] == pytest.approx((1 + 0.75 + 0.75) / 4)


def test_a_second_segment_of_an_event_is_wrong_for_f1_and_takes_another_event_for_map():
    events, predicted = [Segment(0, 10, A), Segment(0, 20, A)], [Segment(0, 10, A, 0.9), Segment(0, 11, A, 0.8)]
    assert count_segments(events, predicted, 0.5) == (1, 1, 1)
    assert average_precision([events], [predicted], [0.5])[0] == pytest.approx(1.0)


def test_frames_at_boundaries():
    """Frame n is at n / fps; times may be rounded to milliseconds."""
    assert right_frames(video([(0, 2 / 3, A)], [(0, 0.667, A)], 30, 30.0)) == (20, 20)
    assert right_frames(video([(0.333, 1, A)], [(1 / 3, 1, A)], 30, 30.0)) == (20, 20)
    assert right_frames(video([(0.05, 0.1, A)], [(0, 10, A)], 10, 10.0)) == (0, 0)  # between two frames


def test_without_a_background_class_only_frames_of_events_are_counted():
    one = video([(0, 4, A)], [(0, 2, A), (2, 10, B)])
    assert right_frames(one) == (20, 40)
    assert right_frames(one, BACKGROUND) == (20, 100)
    found = score([one])
    assert found["frame_accuracy"] == 50.0 and found["segment_f1"][0.5] == pytest.approx(200 / 3)


# ------------------------------------------------------------------------------------------------------- odd cases
def test_nothing_predicted():
    found = score([video([(0, 5, A)])], BACKGROUND)
    assert found["frame_accuracy"] == 50.0 and found["segment_f1"][0.5] == 0.0 and found["mean_map"] == 0.0


def test_nothing_annotated():
    found = score([video([], [(0, 2, A, 0.9), (2, 10, BACKGROUND)])], BACKGROUND)
    assert found["frame_accuracy"] == 80.0 and found["segment_f1"][0.1] == 0.0 and math.isnan(found["mean_map"])
    assert math.isnan(found["classes"][A]["ap"]) and found["classes"][A]["events"] == 0


@pytest.mark.parametrize("videos", [[], [video()], [video([(0, 5, BACKGROUND)], [(0, 10, BACKGROUND)])]])
def test_nothing_at_all(videos):
    found = score(videos, BACKGROUND)
    assert all(math.isnan(value) for value in (*found["segment_f1"].values(), *found["map"].values()))
    assert found["frame_accuracy"] == 100.0 if videos else math.isnan(found["frame_accuracy"])


def test_overlapping_events_are_all_right_where_they_overlap():
    one = video([(0, 6, A), (4, 8, B)], [(0, 5, A), (5, 8, B), (8, 10, BACKGROUND)])
    assert right_frames(one, BACKGROUND) == (100, 100)
    assert score([one], BACKGROUND)["segment_f1"][0.5] == 100.0


def test_a_class_without_events_is_no_part_of_map_but_of_f1():
    alone = score([video([(0, 5, A)], [(0, 5, A)])], BACKGROUND)
    more = score([video([(0, 5, A)], [(0, 5, A), (5, 10, B)])], BACKGROUND)
    assert alone["mean_map"] == more["mean_map"] == 100.0
    assert alone["segment_f1"][0.5] == 100.0 and more["segment_f1"][0.5] == pytest.approx(200 / 3)


def test_an_event_beyond_the_end_counts_in_frames_of_the_video_alone():
    assert right_frames(video([(8, 20, A)], [(8, 10, A)]), BACKGROUND) == (100, 100)


# ------------------------------------------------------------------------------------------------------ references
def units(segment: Segment) -> set[int]:
    return set(range(int(segment.start), int(segment.end)))


def reference_iou(one: Segment, other: Segment) -> float:
    return len(units(one) & units(other)) / len(units(one) | units(other))


def reference_f1(videos: list[VideoSegments], threshold: float) -> float:
    right = wrong = missed = 0
    for each in videos:
        hits = [False] * len(each.annotated)
        for guess in each.predicted:
            ious = [reference_iou(guess, e) if e.label == guess.label else 0.0 for e in each.annotated]
            best = ious.index(max(ious)) if ious else None
            if best is not None and ious[best] >= threshold and not hits[best]:
                hits[best], right = True, right + 1
            else:
                wrong += 1
        missed += hits.count(False)
    precision, recall = right / max(right + wrong, 1), right / max(right + missed, 1)
    return 100 * 2 * precision * recall / (precision + recall) if right else 0.0


def reference_ap(videos: list[VideoSegments], label: int, threshold: float) -> float:
    """The integral of the highest precision at a recall of at least r, over r."""
    left = [[e for e in each.annotated if e.label == label] for each in videos]
    total, points, right = sum(map(len, left)), [], 0
    guesses = [(g, n) for n, each in enumerate(videos) for g in each.predicted if g.label == label]
    for count, (guess, number) in enumerate(sorted(guesses, key=lambda row: -row[0].probability), 1):
        best = max(left[number], key=lambda event: reference_iou(guess, event), default=None)
        if best and reference_iou(guess, best) >= threshold:
            left[number].remove(best)
            right += 1
        points.append((right / total, right / count))
    steps = [(n + 0.5) / total for n in range(total)]
    return sum(max((precision for recall, precision in points if recall >= r), default=0.0) for r in steps) / total


def random_video(rng: random.Random) -> VideoSegments:
    """A minute, whose segments begin and end at whole seconds; predicted ones resemble the events."""
    edges = sorted(rng.sample(range(61), 8))
    annotated = [Segment(a, b, rng.randrange(3)) for a, b in zip(edges, edges[1:], strict=False)]
    moved = sorted({min(60, max(0, edge + rng.randint(-2, 2))) for edge in edges} | {*rng.sample(range(61), 2)})
    names = [rng.choice([*(e.label for e in annotated if e.start <= a < e.end), rng.randrange(3)]) for a in moved[:-1]]
    guesses = [Segment(a, b, label, rng.random()) for a, b, label in zip(moved[:-1], moved[1:], names, strict=True)]
    return VideoSegments(annotated, guesses, 60, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_random_videos_against_references(seed):
    rng = random.Random(seed)
    videos = [random_video(rng) for _ in range(4)]
    found = score(videos, BACKGROUND)
    events = [v._replace(annotated=[e for e in v.annotated if e.label != BACKGROUND]) for v in videos]
    events = [v._replace(predicted=[g for g in v.predicted if g.label != BACKGROUND]) for v in events]
    for threshold in F1_THRESHOLDS:
        assert found["segment_f1"][threshold] == pytest.approx(reference_f1(events, threshold))
    for threshold in MAP_THRESHOLDS:
        expected = 50 * sum(reference_ap(events, label, threshold) for label in (A, B))
        assert found["map"][threshold] == pytest.approx(expected)
    assert 0 < found["mean_map"] < 100
    right = 0
    for each in videos:
        for second in range(60):
            true = {e.label for e in each.annotated if e.start <= second < e.end} or {BACKGROUND}
            guess = next((g.label for g in each.predicted if g.start <= second < g.end), BACKGROUND)
            right += guess in true
    assert found["frame_accuracy"] == pytest.approx(100 * right / 240)
