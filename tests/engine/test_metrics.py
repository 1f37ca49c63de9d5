"""Metrics and the aggregation of views against the released programs' figures; no order changes them."""

import pickle

import pytest
import torch
from golden_recipe import golden_json

from slowfast_uniformer.engine.metrics import VideoAggregator, confusion_matrix, per_class_accuracy, topk_correct
from slowfast_uniformer.engine.scores import every_video_once, figures

GOLDEN = golden_json("meters", "test_meter")
SCORES, LABELS = torch.tensor(GOLDEN["preds"]), torch.tensor(GOLDEN["labels"])
VIDEOS, VIEWS, CLASSES = GOLDEN["videos"], GOLDEN["clips_per_video"], GOLDEN["classes"]


def aggregator(method="sum", softmax=True) -> VideoAggregator:
    return VideoAggregator(VIDEOS, CLASSES, VIEWS, method, softmax)


def feed(scores: VideoAggregator, clips: list[int], batch: int) -> VideoAggregator:
    for part in torch.tensor(clips, dtype=torch.int64).split(batch):
        scores.update(SCORES[part], part // VIEWS, part % VIEWS, LABELS[part // VIEWS])
    return scores


def same(a: VideoAggregator, b: VideoAggregator) -> bool:
    return (
        torch.equal(a.scores, b.scores)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.predicted, b.predicted)
        and a.result() == b.result()
    )


@pytest.mark.parametrize("method", ["sum", "max"])
@pytest.mark.parametrize("softmax", [False, True])
def test_aggregate_is_the_released_one(method, softmax):
    golden = GOLDEN["results"][f"{method}_softmax{softmax}"]
    scores = feed(aggregator(method, softmax), GOLDEN["order"], GOLDEN["batch"])
    assert torch.allclose(scores.scores, torch.tensor(golden["video_preds"]).double(), rtol=0, atol=1e-6)
    assert scores.labels.tolist() == golden["video_labels"]
    figures = scores.result()
    assert f"{figures['top1_acc']:.2f}" == golden["stats"]["top1_acc"]
    assert f"{figures['top5_acc']:.2f}" == golden["stats"]["top5_acc"]
    assert figures["coverage"] == 100.0 and figures["num_videos"] == VIDEOS


def test_topk_is_the_released_one():
    assert topk_correct(SCORES[:VIDEOS], LABELS) == GOLDEN["results"]["topks_correct_firstV"]
    errors = [100.0 - 100.0 * count / VIDEOS for count in topk_correct(SCORES[:VIDEOS], LABELS)]
    assert errors == pytest.approx(GOLDEN["results"]["topk_errors_firstV"], abs=1e-4)


def test_topk_of_few_classes_and_of_none():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]])
    assert topk_correct(scores, torch.tensor([1, 2]), ks=(1, 2, 5)) == [1, 2, 2]
    assert topk_correct(scores[:0], torch.tensor([], dtype=torch.int64)) == [0, 0]


@pytest.mark.parametrize("method, softmax", [("sum", True), ("sum", False), ("max", True)])
def test_result_depends_on_no_order_batch_or_rank(method, softmax):
    whole = feed(aggregator(method, softmax), list(range(VIDEOS * VIEWS)), batch=VIDEOS * VIEWS)
    ranks = [feed(aggregator(method, softmax), GOLDEN["order"][rank::3], batch=2) for rank in range(3)]
    states = [pickle.loads(pickle.dumps(rank.state())) for rank in ranks]
    for rank in ranks:
        assert not same(rank, whole)
        rank.merge(states)
        assert same(rank, whole)
    alone = feed(aggregator(method, softmax), GOLDEN["order"], batch=3)
    alone.merge([alone.state()])
    assert same(alone, whole)


def test_padded_views_count_once_and_the_first_rank_decides():
    order = list(range(VIDEOS * VIEWS))
    once = feed(aggregator(), order, batch=8)
    assert same(feed(aggregator(), [*order[:6], *order, *order[-7:]], batch=5), once)
    first, second = feed(aggregator(), order[:22], batch=4), feed(aggregator(), order[18:], batch=4)
    padding = torch.arange(VIEWS)  # views that the first rank has, but with other scores
    second.update(torch.rand(VIEWS, CLASSES), padding, padding, LABELS[:VIEWS])
    second.update(torch.rand(VIEWS, CLASSES), 0 * padding, padding, LABELS[0].expand(VIEWS))
    states = [first.state(), second.state()]
    for rank in (first, second):
        rank.merge(states)
        assert same(rank, once)


def test_merge_keeps_the_scores_of_this_rank_alone():
    scores = feed(aggregator(), list(range(10)), batch=4)
    scores.merge([feed(aggregator(), list(range(10, VIDEOS * VIEWS)), batch=4).state()])
    assert same(scores, feed(aggregator(), list(range(VIDEOS * VIEWS)), batch=4))


def test_state_holds_no_whole_batches():
    scores = VideoAggregator(1000, 100, 2, "sum", True)
    few = len(pickle.dumps(scores.state()))
    many = torch.arange(500)
    scores.update(torch.rand(500, 100), many, 0 * many, 0 * many)
    assert len(pickle.dumps(scores.state())) - few < 500 * (100 * 4 + 500)


def test_failed_videos_are_wrong_and_lower_the_coverage():
    complete = VIEWS * (VIDEOS - 3)
    scores = feed(aggregator(), [*range(complete), complete], batch=4)  # and one view of the third last
    scores.fail(VIDEOS - 2, int(LABELS[-2]))
    scores.fail(0, int(LABELS[0]))  # unreadable, although views came from somewhere
    assert scores.predicted.tolist() == [False] + [True] * (VIDEOS - 3) + [False] * 2
    assert scores.predictions[[0, -2, -1]].tolist() == [-1, -1, -1]
    assert scores.labels[-2] == LABELS[-2] and scores.labels[-1] == -1  # no view of the last one arrived
    right = scores.predictions == scores.labels
    right[-1] = False
    figures = scores.result()
    assert figures["top1_acc"] == 100 * right.sum().item() / VIDEOS
    assert figures["coverage"] == 100 * (VIDEOS - 4) / VIDEOS
    of_class = [right[scores.labels == k].double().mean() for k in set(scores.labels.tolist()) - {-1}]
    assert figures["mean_class_acc"] == pytest.approx(100 * sum(of_class).item() / len(of_class))
    other = aggregator()
    other.merge([scores.state()])
    assert same(other, scores)


@pytest.mark.parametrize("method, softmax", [("sum", True), ("sum", False), ("max", True), ("max", False)])
def test_probabilities_sum_to_one_and_keep_the_order(method, softmax):
    scores = feed(aggregator(method, softmax), list(range(VIDEOS * VIEWS)), batch=8)
    probabilities = scores.probabilities()
    assert torch.allclose(probabilities.sum(1), torch.ones(VIDEOS).double())
    assert torch.equal(probabilities.argmax(1), scores.predictions)
    if method == "sum" and softmax:
        mean = SCORES.double().softmax(1).view(VIDEOS, VIEWS, CLASSES).mean(1)
        assert torch.allclose(probabilities, mean)


def test_aggregator_filled_in_inference_mode_can_be_sent_and_read():
    with torch.inference_mode():
        scores = feed(aggregator(), GOLDEN["order"][:-3], batch=4)
    other = aggregator()
    other.merge([pickle.loads(pickle.dumps(scores.state()))])
    scores.merge([other.state()])
    assert same(other, scores)


def test_confusion_matrix_and_per_class_accuracy():
    labels = torch.tensor([0, 0, 1, 1, 1, 3, -1])
    predictions = torch.tensor([0, 1, 1, 1, 3, 3, 2])
    matrix = confusion_matrix(predictions, labels, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    per_class = per_class_accuracy(matrix)
    assert per_class[[0, 1, 3]].tolist() == pytest.approx([50.0, 200 / 3, 100.0]) and per_class[2].isnan()


def test_confusion_matrix_has_a_column_for_failed_videos():
    matrix = confusion_matrix(torch.tensor([0, -1, 1]), torch.tensor([0, 0, 1]), 2)
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert per_class_accuracy(matrix).tolist() == [50.0, 100.0]


def test_the_outcome_holds_labelled_videos_with_their_groups():
    scores = feed(aggregator(), list(range(VIDEOS * VIEWS)), batch=8)
    scores.fail(1, int(LABELS[1]))
    scores.labels[2] = -1
    outcome = scores.outcome([f"person {video // 5}" for video in range(VIDEOS)])
    kept = [video for video in range(VIDEOS) if video != 2]
    assert outcome.truth.tolist() == LABELS[kept].tolist()
    assert outcome.predicted.tolist() == scores.predictions[kept].tolist() and outcome.predicted[1] == -1
    assert outcome.groups.tolist() == [video // 5 for video in kept]
    found = {name: value.item() for name, value in figures(outcome, every_video_once(outcome)).items()}
    result = scores.result(labelled=VIDEOS - 1)
    assert found == pytest.approx({name: result[name] for name in found})
    assert found.keys() == {"top1_acc", "top5_acc", "mean_class_acc", "macro_f1"}
    assert scores.outcome([""] * VIDEOS).groups is None is scores.outcome().groups


def test_top_5_needs_more_than_five_classes():
    scores = VideoAggregator(2, 5, 1, "sum", True)
    scores.update(torch.rand(2, 5), torch.arange(2), torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1]))
    assert "top5_acc" not in scores.result() and "top1_acc" in scores.result()
    assert scores.outcome().top5 is None
