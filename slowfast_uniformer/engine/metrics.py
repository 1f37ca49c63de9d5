"""Top-k and per-class accuracy, average precision, and the aggregation of a video's views."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slowfast_uniformer.engine.calibration import with_temperature
from slowfast_uniformer.engine.scores import (
    TOP,
    Outcome,
    every_video_once,
    figures,
    group_numbers,
    mean_average_precision,
)

UNKNOWN = -1  # the label of a video no view of which arrived, the prediction of a video that failed


def topk_correct(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> list[int]:
    """How many rows of `scores` (N, K) have their label (N,) among the k highest, for each k."""
    ranked = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return [int(hits[:, :k].sum()) for k in ks]


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts by true class (row) and predicted class (column).

    Args:
        predictions: (N,) classes; -1 for videos that failed.
        labels: (N,) classes; -1 (unknown) is left out.

    Returns:
        (num_classes, num_classes); or, where videos failed, one more column that counts them.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # seconds to import

    known = labels != UNKNOWN
    columns = torch.where(predictions == UNKNOWN, num_classes, predictions)[known]
    matrix = multiclass_confusion_matrix(columns, labels[known], num_classes + 1)[:num_classes]
    return matrix if matrix[:, num_classes].any() else matrix[:, :num_classes]


def per_class_accuracy(matrix: Tensor) -> Tensor:
    """Per cent (K,) of each row of a confusion matrix that is on its diagonal; nan for an absent class."""
    return 100.0 * matrix.diagonal().double() / matrix.sum(1)


@dataclass(eq=False)
class VideoAggregator:
    """Aggregates the scores of each video's views, and computes metrics over all videos.

    A (video, view) counts once however often it arrives. A video's views are aggregated in float64 and in order, so
    no digit depends on batches or on the number of ranks. Memory is 8 bytes x videos x classes; single views (4 bytes
    x classes) are kept only until their video is complete.

    Args:
        num_videos: videos of the list (V).
        num_classes: classes (K).
        views_per_video: views of a complete video.
        method: "sum" or "max" over views. Max starts from zero, as in the released programs.
        softmax: aggregate probabilities instead of logits.
        multi_label: labels are multi-hot (V, K), and probabilities sigmoids.
    """

    num_videos: int
    num_classes: int
    views_per_video: int
    method: str
    softmax: bool
    multi_label: bool = False

    def __post_init__(self) -> None:
        shape = self.num_videos, self.num_classes
        self.labels = torch.full(shape if self.multi_label else shape[:1], UNKNOWN)
        self._aggregated = torch.zeros(shape, dtype=torch.float64)  # of complete videos
        self._complete = torch.zeros(self.num_videos, dtype=torch.bool)
        self._failed = torch.zeros(self.num_videos, dtype=torch.bool)
        self._views: dict[int, dict[int, Tensor]] = {}  # of incomplete videos: video -> view -> scores (K,)

    def update(self, scores: Tensor, video_ids: Tensor, view_ids: Tensor, labels: Tensor) -> None:
        """Add the scores (N, K) of N views, with the numbers (N,) of their videos and views, and their labels."""
        rows = scores.detach().float().cpu()
        for row, video, view, label in zip(rows, video_ids.tolist(), view_ids.tolist(), labels, strict=True):
            self.labels[video] = label
            self._add(video, view, row.clone())  # a clone, for a row would keep or carry its whole batch

    def fail(self, video_id: int, label: int | Tensor) -> None:
        """Record that a video could not be read: it has no prediction, and counts as wrong in every accuracy."""
        self.labels[video_id] = label
        self._failed[video_id] = True

    def state(self) -> dict[str, Any]:
        """What this rank has, picklable, for `merge` on another."""
        return {
            "labels": self.labels,
            "failed": self._failed,
            "complete": self._complete.nonzero().flatten().tolist(),
            "aggregated": self._aggregated[self._complete],
            "views": self._views,
        }

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Add the `state` of other ranks.

        Of a view that several ranks have, the first counts: with all states in rank order every rank ends with the
        same scores.
        """
        states = [*states, self.state()]
        self.__post_init__()
        for state in states:
            self.labels = torch.where(self.labels == UNKNOWN, state["labels"], self.labels)
            self._failed |= state["failed"]
            for video, aggregated in zip(state["complete"], state["aggregated"], strict=True):
                if not self._complete[video]:
                    self._finish(video, aggregated)
            for video, views in state["views"].items():
                for view, row in views.items():
                    self._add(video, view, row)

    def _add(self, video: int, view: int, row: Tensor) -> None:
        if self._complete[video]:
            return
        views = self._views.setdefault(video, {})
        views.setdefault(view, row)
        if len(views) == self.views_per_video:
            self._finish(video, self._aggregate(views))

    def _finish(self, video: int, aggregated: Tensor) -> None:
        self._aggregated[video] = aggregated
        self._complete[video] = True
        self._views.pop(video, None)

    def _aggregate(self, views: dict[int, Tensor]) -> Tensor:
        rows = torch.stack([views[view] for view in sorted(views)]).double()
        if self.softmax:
            rows = rows.sigmoid() if self.multi_label else rows.softmax(1)
        return rows.sum(0) if self.method == "sum" else rows.amax(0).clamp(min=0.0)

    @property
    def scores(self) -> Tensor:
        """Aggregated scores (V, K), float64: of an incomplete video from the views there are, zeros without any."""
        scores = self._aggregated.clone()
        for video, views in self._views.items():
            scores[video] = self._aggregate(views)
        return scores

    @property
    def predicted(self) -> Tensor:
        """(V,) whether there is a prediction: some view arrived, and the video did not fail."""
        predicted = self._complete.clone()
        predicted[list(self._views)] = True
        return predicted & ~self._failed

    @property
    def predictions(self) -> Tensor:
        """(V,) best class of each video; -1 without a prediction."""
        return torch.where(self.predicted, self.scores.argmax(1), UNKNOWN)

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """`scores` as probabilities (V, K), which sum to 1 over classes: by a softmax, if they are aggregated logits.

        With `multi_label` each class is independent: the mean (or maximum) over views, and 0 for a video that failed.

        Args:
            temperature: of the aggregated probabilities (engine/calibration.py); 1 leaves them as they are.
        """
        return with_temperature(self._probabilities(), temperature, self.multi_label)

    def _probabilities(self) -> Tensor:
        views = self.views_per_video if self.method == "sum" else 1
        scores = self.scores
        if self.multi_label:
            scores = scores / views
            return (scores if self.softmax else scores.sigmoid()) * self.predicted[:, None]
        if self.softmax:
            return scores / scores.sum(1, keepdim=True).clamp(min=1e-12)
        return (scores / views).softmax(1)

    def result(self, labelled: int | None = None) -> dict[str, float | int]:
        """Metrics over all videos in per cent, and `counts`.

        Args:
            labelled: number of videos that have a label, over which accuracies are; None for all.

        Returns:
            `top1_acc`, `top5_acc` (of more than five classes), `mean_class_acc` and `macro_f1`; with `multi_label`
            `map` and `macro_f1`, where a class of probability 0.5 and above is predicted. Means over classes are over
            those that have videos.
        """
        outcome = self.outcome()
        macro_f1 = figures(outcome, every_video_once(outcome))["macro_f1"].item() if len(outcome.truth) else math.nan
        if self.multi_label:
            return {"map": self.mean_average_precision(), "macro_f1": macro_f1, **self.counts()}
        total = len(self.labels) if labelled is None else labelled
        predicted, scores = self.predicted, self.scores
        top1, top5 = topk_correct(scores[predicted], self.labels[predicted])
        matrix = confusion_matrix(self.predictions, self.labels, scores.shape[1])
        return {
            "top1_acc": 100.0 * top1 / total,
            **({"top5_acc": 100.0 * top5 / total} if self.num_classes > TOP else {}),
            "mean_class_acc": per_class_accuracy(matrix).nanmean().item(),
            "macro_f1": macro_f1,
            **self.counts(),
        }

    def mean_average_precision(self) -> float:
        """In per cent; where a video has one label, of each class against the others."""
        return mean_average_precision(self.outcome())

    @property
    def labelled(self) -> Tensor:
        """(V,) whether a video's label is known; with `multi_label` a video without labels is one of no class."""
        return (self.labels != UNKNOWN).all(1) if self.multi_label else self.labels != UNKNOWN

    def outcome(self, groups: Sequence[str] | None = None) -> Outcome:
        """The labelled videos, for figures with intervals.

        Args:
            groups: the name of each video's group, such as the person in it; "" for a video that stands for itself.
        """
        labelled, labels = self.labelled, self.labels[self.labelled]
        probabilities = (self.probabilities() * self.predicted[:, None])[labelled]
        best, in_top5 = self.predictions[labelled], None
        if self.multi_label:
            labels, best = labels > 0, probabilities >= 0.5
        elif self.num_classes > TOP:
            ranked = self.scores[labelled].topk(TOP, dim=1).indices
            in_top5 = ((ranked == labels[:, None]).any(1) & (best != UNKNOWN)).numpy()
        numbers = group_numbers([groups[video] for video in labelled.nonzero().flatten().tolist()]) if groups else None
        arrays = labels.numpy(), best.numpy(), self.num_classes
        return Outcome(*arrays, top5=in_top5, probabilities=probabilities.numpy(), groups=numbers)

    def counts(self) -> dict[str, float | int]:
        """`coverage`, the per cent of videos that are predicted from all their views, and `num_videos`."""
        total = len(self.labels)
        return {"coverage": 100.0 * int((self._complete & ~self._failed).sum()) / total, "num_videos": total}
