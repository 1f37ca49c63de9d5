"""Classes in a report: per-class accuracy, the confusion matrix, and the most confident mistakes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer.analysis.report_figures import picture, video_strip
from slowfast_uniformer.analysis.report_scores import outcome_of, scored
from slowfast_uniformer.engine.scores import average_precisions, every_video_once
from slowfast_uniformer.runs.folder import RunFolder
from slowfast_uniformer.runs.predictions import Prediction

MATRIX = 30  # most classes of a confusion matrix with names and counts; of more it is an image
PAIRS, ENDS = 15, 10  # most confused pairs; best and worst classes


def classes(run: RunFolder) -> dict[str, Any] | None:
    """Per-class accuracy (average precision of a multi-label run) and confusion; None without labelled predictions."""
    labelled = scored(run)
    if not any(prediction.labels for prediction in labelled):
        return None
    multi_label = bool(run.classes)
    scores = _average_precisions(run, labelled) if multi_label else _accuracies(labelled)
    ranked = sorted(scores, key=lambda label: (-scores[label][0], -scores[label][1], label))
    bars = [(run.names.get(label, str(label)), *scores[label]) for label in ranked]
    best, worst = (bars, []) if len(bars) <= 2 * ENDS else (bars[:ENDS], bars[-ENDS:])
    return {
        "measure": "average precision, %" if multi_label else "accuracy, % of videos",
        "best": best,
        "worst": worst,
        "count": len(bars),
        "scores": run.class_scores,
        "absent": [row["name"] for row in run.class_scores if row["videos"] == 0],
        "matrix": None if multi_label else confusion(run),
        "pairs": [] if multi_label else confused_pairs(run, labelled),
    }


def _accuracies(labelled: Sequence[Prediction]) -> dict[int, tuple[float, int]]:
    """Accuracy in per cent, and number of videos, by class."""
    videos = Counter(p.labels[0] for p in labelled)
    correct = Counter(p.labels[0] for p in labelled if not p.wrong)
    return {label: (100 * correct[label] / count, count) for label, count in videos.items()}


def _average_precisions(run: RunFolder, labelled: Sequence[Prediction]) -> dict[int, tuple[float, int]]:
    """Average precision in per cent, and number of videos, by class."""
    outcome = outcome_of(run, labelled)
    found, counts = average_precisions(outcome, every_video_once(outcome))[:, 0], outcome.truth.sum(0).tolist()
    return {label: (float(found[label]), count) for label, count in enumerate(counts) if count}


def confusion(run: RunFolder) -> dict[str, Any]:
    """The confusion matrix of the classes that occur, with a last column for videos that failed, if any.

    Its rows are true classes. Of many classes it is an image instead of counts.
    """
    counts, names = run.confusion()
    columns = names + ["failed"] * (counts.shape[1] - len(names))
    image = picture(counts) if len(names) > MATRIX else None
    return {"picture": image, "names": names, "columns": columns, "counts": counts.tolist()}


def confused_pairs(run: RunFolder, labelled: Sequence[Prediction]) -> list[tuple[str, str, int, float]]:
    """The most confused classes: true, predicted, number of videos, and per cent of the true class's videos."""
    videos = Counter(p.labels[0] for p in labelled)
    wrong = Counter((p.labels[0], p.prediction) for p in labelled if p.wrong and p.prediction is not None)
    return [
        (run.names.get(true, str(true)), run.names.get(predicted, str(predicted)), count, 100 * count / videos[true])
        for (true, predicted), count in wrong.most_common(PAIRS)
    ]


def mistakes(run: RunFolder, most: int) -> list[dict[str, Any]]:
    """The mistakes of highest probability, each with a strip of frames if its video can be read."""
    wrong = [p for p in run.predictions or () if p.wrong and p.prediction is not None]
    wrong.sort(key=lambda p: -p.probability)
    return [
        {
            "video": p.video if p.start is None else f"{p.video}, {p.start:g} to {p.end:g} s",
            "true": p.label_name,
            "predicted": p.prediction_name,
            "probability": 100 * p.probability,
            "true_probability": next((100 * value for name, value in p.top if name == p.label_name), None),
            "strip": video_strip(run, p.video, p.start, p.end),
        }
        for p in wrong[:most]
    ]
