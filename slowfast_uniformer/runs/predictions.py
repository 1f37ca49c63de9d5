"""predictions.csv and submission.csv."""

import csv
import os
from typing import Any

from slowfast_uniformer.data import annotations
from slowfast_uniformer.engine.metrics import VideoAggregator


def write_predictions(
    path: str, samples: list[annotations.Sample], scores: VideoAggregator, names: list[str] | None
) -> None:
    """One row a video: path, label, prediction, correctness, the five most probable classes.

    A video that was not answered has empty predictions. With several labels a video, `label` holds all,
    `correct` says whether the most probable class is one of them, and every class's probability follows.
    """
    probabilities = scores.probabilities()
    count = min(5, probabilities.shape[1])
    top = probabilities.topk(count, dim=1)
    name = (lambda label: names[label]) if names else str
    head = ["video", "label", "label_name", "prediction", "prediction_name", "correct", "probability"]
    head += [f"top{k}_{what}" for k in range(1, count + 1) for what in ("name", "probability")]
    classes = range(probabilities.shape[1]) if scores.multi_label else ()
    head += [f"probability of {name(label)}" for label in classes]
    with open(path + ".tmp", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(head)
        for i, sample in enumerate(samples):
            true = sample.labels
            row: list[Any] = [sample.path, ",".join(map(str, true)), "; ".join(map(name, true))]
            if scores.answered[i]:
                best = int(top.indices[i, 0])
                row += [best, name(best), int(best in true) if true else "", f"{top.values[i, 0]:.6f}"]
                for label, probability in zip(top.indices[i].tolist(), top.values[i].tolist(), strict=True):
                    row += [name(label), f"{probability:.6f}"]
                row += [f"{probabilities[i, label]:.6f}" for label in classes]
            else:
                row += [""] * (len(head) - len(row))
            rows.writerow(row)
    os.replace(path + ".tmp", path)


def write_submission(
    path: str, samples: list[annotations.Sample], scores: VideoAggregator, names: list[str] | None
) -> None:
    """What Something-Something's evaluation asks for: a line a video, its id (the file name without ending)
    and the five most probable classes by name, separated by semicolons."""
    best = scores.scores.topk(min(5, scores.scores.shape[1]), dim=1).indices.tolist()
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        for sample, labels in zip(samples, best, strict=True):
            video = os.path.splitext(os.path.basename(sample.path))[0]
            file.write(";".join([video, *(names[k] if names else str(k) for k in labels)]) + "\n")
    os.replace(path + ".tmp", path)
