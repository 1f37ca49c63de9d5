"""Accuracy: of a batch, of videos put together from their views, and per class; mean average precision."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

UNKNOWN = -1  # the label of a video of which nothing arrived, the prediction for one that was not answered


def topk_correct(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> list[int]:
    """How many rows of `scores` (N, K) have their label (N,) among the k highest, for each k."""
    ranked = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return [int(hits[:, :k].sum()) for k in ks]


def accuracy(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> list[float]:
    """`topk_correct` in per cent of the rows; nan where there are none."""
    total = len(labels)
    return [100.0 * count / total if total else float("nan") for count in topk_correct(scores, labels, ks)]


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (num_classes, num_classes) by true class (row) and predicted class (column).

    `predictions` and `labels` are (N,); unknown labels (-1) are left out. Unanswered videos (prediction -1)
    are counted in one more column, which is there only if there are such.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # seconds to import

    known = labels != UNKNOWN
    answers = torch.where(predictions == UNKNOWN, num_classes, predictions)[known]
    matrix = multiclass_confusion_matrix(answers, labels[known], num_classes + 1)[:num_classes]
    return matrix if matrix[:, num_classes].any() else matrix[:, :num_classes]


def per_class_accuracy(matrix: Tensor) -> Tensor:
    """Per cent (K,) of each row of a confusion matrix that is on its diagonal; nan for an absent class."""
    return 100.0 * matrix.diagonal().double() / matrix.sum(1)


def average_precisions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Per cent (K,): of each class the area under precision and recall, from probabilities (V, K) and
    multi-hot labels (V, K); nan for a class without a video."""
    from torchmetrics.functional.classification import binary_average_precision

    return torch.tensor(
        [
            100.0 * binary_average_precision(scores, hits.clamp(min=0)).item() if (hits > 0).any() else math.nan
            for scores, hits in zip(probabilities.T, labels.T, strict=True)
        ]
    )


def mean_average_precision(probabilities: Tensor, labels: Tensor) -> float:
    """The mean of `average_precisions` over the classes that have videos; nan where none has."""
    return average_precisions(probabilities, labels).double().nanmean().item()


class VideoAggregator:
    """Joins the scores of each video's views, and gives accuracies over all videos.

    A (video, view) counts once however often it arrives. A video's views are joined in float64 and in order,
    so no digit depends on batches or on the number of ranks. Memory is 8 bytes x videos x classes; single
    views (4 bytes x classes) are kept only until their video is complete. `method` is sum or max over views,
    of probabilities when `softmax`, else of logits. Max starts from zero, as in the released programs.
    With `multi_label` labels are multi-hot, (V, K), and probabilities sigmoids.
    """

    def __init__(
        self,
        num_videos: int,
        num_classes: int,
        views_per_video: int,
        method: str,
        softmax: bool,
        multi_label: bool = False,
    ):
        self.method, self.softmax, self.views_per_video = method, softmax, views_per_video
        self.multi_label = multi_label
        self._clear(num_videos, num_classes)

    def _clear(self, num_videos: int, num_classes: int) -> None:
        shape = (num_videos, num_classes) if self.multi_label else (num_videos,)
        self.labels = torch.full(shape, UNKNOWN)
        self._joined = torch.zeros(num_videos, num_classes, dtype=torch.float64)  # of complete videos
        self._complete = torch.zeros(num_videos, dtype=torch.bool)
        self._failed = torch.zeros(num_videos, dtype=torch.bool)
        self._views: dict[int, dict[int, Tensor]] = {}  # of incomplete videos: video -> view -> scores (K,)

    def update(self, scores: Tensor, video_ids: Tensor, view_ids: Tensor, labels: Tensor) -> None:
        """Take in scores (N, K) of N views, with the (N,) numbers of their videos and views, and labels."""
        rows = scores.detach().float().cpu()
        for row, video, view, label in zip(rows, video_ids.tolist(), view_ids.tolist(), labels, strict=True):
            self.labels[video] = label
            self._add(video, view, row.clone())  # a clone, for a row would keep or carry its whole batch

    def fail(self, video_id: int, label: int | Tensor) -> None:
        """Record that a video could not be read: it is not answered, hence wrong in every accuracy."""
        self.labels[video_id] = label
        self._failed[video_id] = True

    def state(self) -> dict[str, Any]:
        """What this rank knows, picklable, for `merge` on another."""
        return {
            "labels": self.labels,
            "failed": self._failed,
            "complete": self._complete.nonzero().flatten().tolist(),
            "joined": self._joined[self._complete],
            "views": self._views,
        }

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Take in the states of ranks. Of a view that several know the first state's stands, so that with all
        states in rank order every rank ends with the same."""
        states = [*states, self.state()]
        self._clear(*self._joined.shape)
        for state in states:
            self.labels = torch.where(self.labels == UNKNOWN, state["labels"], self.labels)
            self._failed |= state["failed"]
            for video, joined in zip(state["complete"], state["joined"], strict=True):
                if not self._complete[video]:
                    self._finish(video, joined)
            for video, views in state["views"].items():
                for view, row in views.items():
                    self._add(video, view, row)

    def _add(self, video: int, view: int, row: Tensor) -> None:
        if self._complete[video]:
            return
        views = self._views.setdefault(video, {})
        views.setdefault(view, row)
        if len(views) == self.views_per_video:
            self._finish(video, self._join(views))

    def _finish(self, video: int, joined: Tensor) -> None:
        self._joined[video] = joined
        self._complete[video] = True
        self._views.pop(video, None)

    def _join(self, views: dict[int, Tensor]) -> Tensor:
        rows = torch.stack([views[view] for view in sorted(views)]).double()
        if self.softmax:
            rows = rows.sigmoid() if self.multi_label else rows.softmax(1)
        return rows.sum(0) if self.method == "sum" else rows.amax(0).clamp(min=0.0)

    @property
    def scores(self) -> Tensor:
        """Joined scores (V, K), float64: of an incomplete video from the views there are, zeros without."""
        scores = self._joined.clone()
        for video, views in self._views.items():
            scores[video] = self._join(views)
        return scores

    @property
    def answered(self) -> Tensor:
        """(V,) whether there is an answer: some view arrived, and the video did not fail."""
        answered = self._complete.clone()
        answered[list(self._views)] = True
        return answered & ~self._failed

    @property
    def predictions(self) -> Tensor:
        """(V,) best class of each video; -1 where it was not answered."""
        return torch.where(self.answered, self.scores.argmax(1), UNKNOWN)

    def probabilities(self) -> Tensor:
        """(V, K) `scores` made to sum to 1 over classes: softmaxed, if they were joined from logits. With
        `multi_label` the mean (or largest) of the views, 0 for a video that was not answered."""
        scores = self.scores
        if self.multi_label:
            scores = scores / (self.views_per_video if self.method == "sum" else 1)
            return (scores if self.softmax else scores.sigmoid()) * self.answered[:, None]
        if self.softmax:
            return scores / scores.sum(1, keepdim=True).clamp(min=1e-12)
        return (scores / (self.views_per_video if self.method == "sum" else 1)).softmax(1)

    def result(self) -> dict[str, float | int]:
        """Accuracies in per cent of all videos (`mean_class_acc`: mean over classes that have videos; with
        `multi_label` instead `map`), and `counts`."""
        if self.multi_label:
            return {"map": mean_average_precision(self.probabilities(), self.labels), **self.counts()}
        total, answered, scores = len(self.labels), self.answered, self.scores
        top1, top5 = topk_correct(scores[answered], self.labels[answered])
        matrix = confusion_matrix(self.predictions, self.labels, scores.shape[1])
        return {
            "top1_acc": 100.0 * top1 / total,
            "top5_acc": 100.0 * top5 / total,
            "mean_class_acc": per_class_accuracy(matrix).nanmean().item(),
            **self.counts(),
        }

    def counts(self) -> dict[str, float | int]:
        """`coverage`, the per cent of videos that are answered from all their views, and `num_videos`."""
        total = len(self.labels)
        return {"coverage": 100.0 * int((self._complete & ~self._failed).sum()) / total, "num_videos": total}
