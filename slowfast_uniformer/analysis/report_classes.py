"""What a report says of classes: how well each is told, which are confused, and the worst mistakes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from slowfast_uniformer.analysis.report_figures import picture, strip
from slowfast_uniformer.engine.metrics import average_precisions
from slowfast_uniformer.runs.folder import Prediction, RunFolder

MATRIX = 30  # classes of a confusion matrix that has names and counts; of more it is a picture
PAIRS, ENDS = 15, 10  # most confused pairs; best and worst classes


def classes(run: RunFolder) -> dict[str, Any] | None:
    """How well each class is told; None where nothing tells it."""
    labelled = [prediction for prediction in run.predictions or () if prediction.labels]
    if not labelled:
        return None
    several = bool(run.classes)
    scores = _precisions(run, labelled) if several else _hits(labelled)
    ranked = sorted(scores, key=lambda label: (-scores[label][0], -scores[label][1], label))
    bars = [(run.names.get(k, str(k)), scores[k][0], scores[k][1]) for k in ranked]
    ends = (bars, []) if len(bars) <= 2 * ENDS else (bars[:ENDS], bars[-ENDS:])
    return {
        "measure": "average precision, %" if several else "% of videos right",
        "best": ends[0],
        "worst": ends[1],
        "count": len(bars),
        "matrix": None if several else matrix(run, labelled),
        "pairs": [] if several else pairs(run, labelled),
    }


def _hits(labelled: Sequence[Prediction]) -> dict[int, tuple[float, int]]:
    """Per cent that is right, and number of videos, by class."""
    videos = Counter(p.labels[0] for p in labelled)
    right = Counter(p.labels[0] for p in labelled if not p.wrong)
    return {label: (100 * right[label] / count, count) for label, count in videos.items()}


def _precisions(run: RunFolder, labelled: Sequence[Prediction]) -> dict[int, tuple[float, int]]:
    """Average precision in per cent, and number of videos, by class."""
    truth = torch.zeros(len(labelled), len(run.classes), dtype=torch.int64)
    for row, prediction in zip(truth, labelled, strict=True):
        row[[label for label in prediction.labels if label < len(row)]] = 1
    found = average_precisions(torch.tensor([p.probabilities for p in labelled]), truth).tolist()
    counts = truth.sum(0).tolist()
    return {k: (found[k], count) for k, count in enumerate(counts) if count}


def matrix(run: RunFolder, labelled: Sequence[Prediction]) -> dict[str, Any]:
    """The confusion matrix of the classes that occur: rows of (count, share of the true class), or with many
    classes a picture."""
    answers = {p.prediction for p in labelled if p.prediction is not None}
    labels = sorted({p.labels[0] for p in labelled} | answers)
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + any(p.prediction is None for p in labelled)), np.int64)
    for p in labelled:
        counts[place[p.labels[0]], -1 if p.prediction is None else place[p.prediction]] += 1
    names = [run.names.get(label, str(label)) for label in labels]
    columns = names + ["not answered"] * (counts.shape[1] - len(labels))
    if len(labels) > MATRIX:
        return {"picture": picture(counts), "names": names, "columns": columns}
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = [list(zip(*row, strict=True)) for row in zip(counts.tolist(), shares.tolist(), strict=True)]
    return {"picture": None, "names": names, "columns": columns, "cells": cells}


def pairs(run: RunFolder, labelled: Sequence[Prediction]) -> list[tuple[str, str, int, float]]:
    """The most confused classes: true, predicted, how often, and in what per cent of the true class."""
    videos = Counter(p.labels[0] for p in labelled)
    wrong = Counter((p.labels[0], p.prediction) for p in labelled if p.wrong and p.prediction is not None)
    name = run.names
    return [
        (name.get(true, str(true)), name.get(told, str(told)), count, 100 * count / videos[true])
        for (true, told), count in wrong.most_common(PAIRS)
    ]


def mistakes(run: RunFolder, most: int) -> list[dict[str, Any]]:
    """The mistakes of highest probability, each with a strip of frames if its video can be read."""
    wrong = [p for p in run.predictions or () if p.wrong and p.prediction is not None]
    wrong.sort(key=lambda p: -p.probability)
    return [
        {
            "video": p.video,
            "true": p.label_name,
            "told": p.prediction_name,
            "probability": 100 * p.probability,
            "true_probability": next((100 * value for name, value in p.top if name == p.label_name), None),
            "strip": strip(run, p.video),
        }
        for p in wrong[:most]
    ]
