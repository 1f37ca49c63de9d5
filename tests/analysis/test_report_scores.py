"""Scores of classes, intervals and the comparison of runs, in the report and as it prints them."""

import json

import numpy as np
import pytest
import torch
import yaml
from conftest import exit_status

from slowfast_uniformer.analysis.report import render
from slowfast_uniformer.analysis.report_scores import compare, outcome_of, scored
from slowfast_uniformer.cli.report import main
from slowfast_uniformer.data.sample_list import Sample
from slowfast_uniformer.engine.intervals import differences, intervals
from slowfast_uniformer.engine.scores import Outcome, class_scores, every_video_once, figures
from slowfast_uniformer.runs.folder import read_run
from slowfast_uniformer.runs.predictions import read_class_scores, write_class_scores, write_predictions

NAMES = ["serve", "volley", "smash", "lob", "slice", "drop shot"]


def probabilities_of(predicted: np.ndarray, seed: int) -> torch.Tensor:
    """Probabilities (V, 6) whose highest are these classes."""
    noise = np.random.default_rng(seed).random((len(predicted), len(NAMES)))
    return torch.tensor(noise + 1.5 * np.eye(len(NAMES))[predicted]).softmax(1)


@pytest.fixture
def write(tmp_path):
    """A function that writes the folder of a tested run: labels (V,), predictions (V,), of which the first failed."""

    def write(name, truth, predicted, groups=None, first=0, config=None, **figures):
        folder = tmp_path / name
        folder.mkdir()
        samples = [Sample(f"{first + n}.mp4", int(label)) for n, label in enumerate(truth)]
        kept = torch.arange(len(truth)) > 0
        scores = probabilities_of(predicted, 0)
        write_predictions(str(folder / "predictions.csv"), samples, scores, kept, NAMES, False)
        if groups:
            with open(folder / "predictions.csv") as file:
                lines = file.read().splitlines()
            lines = [f"{line},{group}" for line, group in zip(lines, ["group", *groups], strict=True)]
            (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
        outcome = Outcome(truth, np.where(kept, predicted, -1), len(NAMES))
        write_class_scores(str(folder / "class_scores.csv"), class_scores(outcome), NAMES)
        row = {"step": 5, "split": "test_final", "coverage": 100.0, "num_videos": len(truth), **figures}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        sections = {"MODEL": {"NUM_CLASSES": len(NAMES)}, **(config or {})}
        (folder / "config.yaml").write_text(yaml.safe_dump(sections))
        return str(folder)

    return write


@pytest.fixture
def two(write):
    """Two runs, the second of which has fifteen more videos right. No video is a lob; groups are of four videos."""
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 4, 5], size=200)
    wrong = rng.permutation(np.arange(1, 200))[:60]
    first, second = truth.copy(), truth.copy()
    first[wrong], second[wrong[15:]] = (truth[wrong] + 1) % 6, (truth[wrong[15:]] + 1) % 6
    groups = [f"person {n // 4}" for n in range(200)]
    interval = {"top1_acc": 69.5, "top1_acc_low": 63.0, "top1_acc_high": 75.5, "macro_f1": 66.0, "ece": 4.25}
    return write("first", truth, first, groups, **interval, temperature=1.4, num_groups=50), write(
        "second", truth, second, groups, top1_acc=77.0
    )


def test_what_is_written_is_read_again(two):
    first, second = map(read_run, two)
    assert [p.group for p in first.predictions[:5]] == ["person 0"] * 4 + ["person 1"]
    one, other = (outcome_of(run, scored(run)) for run in (first, second))
    assert np.bincount(one.groups).tolist() == [4] * 50
    assert one.predicted[0] == -1 and one.predicted[1] == first.predictions[1].prediction
    found = {name: values.item() for name, values in figures(one, every_video_once(one)).items()}
    assert found["top1_acc"] == 69.5 and found["top5_acc"] > found["top1_acc"]
    scores = read_class_scores(f"{two[0]}/class_scores.csv")
    assert [row["videos"] for row in scores] == np.bincount(one.truth, minlength=6).tolist()
    assert scores[3] == {"label": 3.0, "name": "lob", "videos": 0.0, "precision": 0.0, "recall": None, "f1": None}
    assert np.mean([row["f1"] for row in scores if row["videos"]]) == pytest.approx(found["macro_f1"], abs=0.01)
    (comparison,) = compare([first, second])
    assert (comparison.videos, comparison.others, comparison.groups) == (200, 0, 50)
    assert comparison.differences["top-1"] == differences(one, other, 1)["top1_acc"]
    assert intervals(one, 1).keys() == {"top1_acc", "top5_acc", "mean_class_acc", "macro_f1"}


def test_the_command_says_whether_a_difference_is_larger_than_chance(two, write, capsys):
    same = write("same", *(np.array([0, 1, 2, 4, 5] * 8),) * 2, first=0)
    assert exit_status(lambda: main([*two])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("first/report.html")
    assert lines[1] == "second against first, 200 videos of both, bootstrap over 50 groups:"
    (top1,) = [line for line in lines if line.startswith("  top-1 69.50 -> 77.00 %, difference +7.50 [+")]
    assert top1.endswith("]: larger than chance")
    assert exit_status(lambda: main([two[0], two[0]])) == 0
    assert "difference +0.00 [+0.00, +0.00]: may be chance" in capsys.readouterr().out
    other = write("other", *(np.array([0, 1] * 8),) * 2, first=1000)
    assert exit_status(lambda: main([same, other])) == 0
    assert "no video is in both predictions.csv by the same path" in capsys.readouterr().out


def test_only_videos_that_both_have_are_compared(write):
    truth = np.arange(40) % 6
    first, second = write("a", truth, truth), write("b", truth[10:], (truth[10:] + 1) % 6, first=10)
    (comparison,) = compare([read_run(first), read_run(second)])
    assert (comparison.videos, comparison.others, comparison.groups) == (30, 10, 0)
    assert comparison.differences["top-1"].second == 0


def test_the_page_shows_intervals_classes_and_the_difference(two, tmp_path, page):
    assert exit_status(lambda: main([*two, "--output", str(tmp_path / "page.html")])) == 0
    page.goto(f"file://{tmp_path}/page.html")
    page.set_viewport_size({"width": 1280, "height": 900})
    text = page.inner_text("body")
    assert "95 %: 63.0 to 75.5" in text and "calibration error" in text and "at temperature 1.40" in text
    assert "larger than chance" in text and "+7.50" in text and "over 50 groups" in text
    assert "No test video of lob" in text
    table = page.locator("details.panel").first
    table.locator("summary").click()
    rows = table.locator("tbody tr").all_inner_texts()
    assert len(rows) == 6 and rows[3].split() == ["lob", "0", "0.0", "–", "–"]
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_several_labels_a_video(write, tmp_path):
    folder = write("several", np.zeros(40, np.int64), np.zeros(40, np.int64), map=50.0)
    rng = np.random.default_rng(0)
    truth = rng.random((40, len(NAMES))) < 0.3
    samples = [Sample(f"{n}.mp4", tuple(np.flatnonzero(row).tolist())) for n, row in enumerate(truth)]
    scores = torch.tensor(0.5 * rng.random(truth.shape) + 0.4 * truth)
    path = f"{folder}/predictions.csv"
    write_predictions(path, samples, scores, torch.ones(40, dtype=torch.bool), NAMES, True)
    run = read_run(folder)
    one = outcome_of(run, scored(run))
    assert np.array_equal(one.truth, truth), "videos without labels count: they are of no class"
    np.testing.assert_allclose(one.probabilities, scores.numpy(), atol=1e-6)
    (comparison,) = compare([run, run])
    assert comparison.differences.keys() == {"mAP", "macro-F1"} and comparison.videos == 40
    assert "average precision" in render([run])


def test_a_run_that_stopped_early_and_its_best_loss(write):
    config = {"TRAIN": {"PATIENCE": 2, "BEST_METRIC": "loss"}, "SOLVER": {"MAX_EPOCH": 9}}
    folder = write("early", *(np.array([0, 1] * 4),) * 2, config=config, top1_acc=50.0)
    rows = [{"step": 2 * e, "split": "train_epoch", "epoch": e, "iter": 2, "iters": 2, "loss": 1.0} for e in (1, 2, 3)]
    rows += [
        {"step": 2 * e, "split": "val_epoch", "epoch": e, "loss": 0.5 + e, "top1_acc": e, "stale_validations": e - 1}
        for e in (1, 2, 3)
    ]
    with open(f"{folder}/metrics.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    html = render([read_run(folder)])
    assert "stopped early after epoch 3 of 9, tested" in html
    assert "best loss" in html and "validation, epoch 1" in html and ">1.5<" in html
