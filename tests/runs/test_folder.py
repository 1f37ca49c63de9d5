"""A run's folder: what is written is read back, and damaged files are named."""

import csv

import pytest
import torch
from damaged_run_files import DAMAGED
from matplotlib.text import Text

from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.files import append_json_lines, read_json_lines
from slowfast_uniformer.runs.folder import read_run
from slowfast_uniformer.runs.predictions import COLUMNS, read_predictions, write_predictions, write_submission

NAMES = ["a", "b, c", "d; e", 'f "g"', "h\ni", "j"]


def test_predictions_are_read_back(tmp_path):
    path = str(tmp_path / "predictions.csv")
    samples = [Sample("x/1.mp4", 1), Sample("x/2, 3.mp4", 0), Sample("x/4.mp4", -1), Sample("x/5.mp4", 5)]
    probabilities = torch.tensor([[0.1, 0.4, 0.2, 0.15, 0.1, 0.05]] * 4)
    write_predictions(path, samples, probabilities, torch.tensor([True, True, True, False]), NAMES, False)
    (right, wrong, unlabelled, failed), classes = read_predictions(path)
    top = [("b, c", 0.4), ("d; e", 0.2), ('f "g"', 0.15)]
    assert right.video == "x/1.mp4" and right.labels == (1,) and right.label_name == right.prediction_name == "b, c"
    assert right.prediction == 1 and right.probability == 0.4 and right.top[:3] == top and len(right.top) == 5
    assert not right.wrong and wrong.wrong and wrong.video == "x/2, 3.mp4" and wrong.label_name == "a"
    assert unlabelled.labels == () and not unlabelled.wrong and unlabelled.prediction == 1
    assert failed.prediction is None and failed.wrong and failed.probability == 0 and failed.top == []
    assert classes == [] and right.probabilities == ()
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert tuple(head[:7]) == COLUMNS and head[7:9] == ["top1_name", "top1_probability"] and len(head) == 17
    assert [row[5] for row in rows] == ["1", "0", "", ""] and rows[3][3:] == [""] * 14
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]


def test_predictions_with_several_labels_and_few_classes_are_read_back(tmp_path):
    path = str(tmp_path / "predictions.csv")
    samples = [Sample("1.mp4", (0, 2)), Sample("2.mp4", (1,))]
    probabilities = torch.tensor([[0.5, 0.25, 0.75], [0.0, 0.0, 0.0]])
    write_predictions(path, samples, probabilities, torch.tensor([True, False]), ["a", "b", "c"], True)
    (first, second), classes = read_predictions(path)
    assert first.labels == (0, 2) and first.label_name == "a; c" and first.probabilities == (0.5, 0.25, 0.75)
    assert len(first.top) == 3 and not first.wrong and second.probabilities == (0, 0, 0) and classes == ["a", "b", "c"]


def test_submission_has_ids_and_five_names(tmp_path):
    path = tmp_path / "submission.csv"
    scores = torch.tensor([[0.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    write_submission(str(path), [Sample("x/17.webm", -1)], scores, None)
    assert path.read_text() == "17;1;2;3;4;5\n"
    write_submission(str(path), [Sample("x/17.webm", -1)], scores[:, :2], ["up", "down"])
    assert path.read_text() == "17;down;up\n"


@pytest.mark.parametrize("end", ["", "\n", '\n{"step": 3, "spl', '\n{"step": 3, "spl\n \n'])
def test_an_incomplete_last_line_is_left_out(tmp_path, end):
    path = str(tmp_path / "metrics.jsonl")
    append_json_lines(path, {"step": 1, "split": "val_epoch"})
    append_json_lines(path, {"step": 2, "split": "val_epoch"}, {"step": 2, "split": "test_final"})
    with open(path, "a") as file:
        file.write(end)
    assert [row["step"] for row in read_json_lines(path)] == [1, 2, 2]
    assert [row["split"] for row in read_run(str(tmp_path)).of("test_final")] == ["test_final"]


def test_rows_are_appended_all_or_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_json_lines(str(path), {"step": 1})
    with pytest.raises(ValueError):
        append_json_lines(str(path), {"step": 2}, {"step": float("nan")})
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(("file", "content", "said"), DAMAGED)
def test_damaged_files_are_named(tmp_path, file, content, said):
    append_json_lines(str(tmp_path / "metrics.jsonl"), {"step": 1, "split": "val_epoch"})
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_run(str(tmp_path))


def test_a_folder_without_metrics_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no metrics.jsonl, so this is not a run's folder"):
        read_run(str(tmp_path))


def test_curves_and_the_confusion_matrix_of_a_run(tmp_path):
    metrics = str(tmp_path / "metrics.jsonl")
    append_json_lines(metrics, {"step": 5, "split": "train_iter", "epoch": 1, "iter": 5, "iters": 10, "loss": 2.0})
    append_json_lines(metrics, {"step": 10, "split": "train_iter", "epoch": 1, "iter": 10, "iters": 10, "loss": None})
    append_json_lines(metrics, {"step": 15, "split": "train_iter", "epoch": 2, "iter": 5, "iters": 10, "loss": 1.0})
    append_json_lines(metrics, {"step": 20, "split": "val_epoch", "epoch": 2, "top1_acc": 50})
    run = read_run(tmp_path)
    assert run.path == str(tmp_path)
    assert run.curve("train_iter", "loss") == ([0.5, 1.5], [2.0, 1.0])
    assert run.curve("val_epoch", "top1_acc") == ([2.0], [50]) and run.curve("val_epoch", "lr") == ([], [])
    with pytest.raises(UserError, match="no confusion matrix before the test"):
        run.confusion()

    labels, best, read = [1, 1, 3, -1, 3], [1, 0, 3, 1, 0], torch.tensor([True, True, True, True, False])
    samples = [Sample(f"{n}.mp4", label) for n, label in enumerate(labels)]
    predictions = str(tmp_path / "predictions.csv")
    write_predictions(predictions, samples, torch.eye(6)[best], read, NAMES, False)
    run = read_run(str(tmp_path))
    counts, names = run.confusion()
    # columns: classes 0, 1, 3 and failed; the video without a label does not count
    assert counts.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]] and names == [NAMES[0], NAMES[1], NAMES[3]]
    assert any("4 videos, 50.0 % right" in text.get_text() for text in run.plot_confusion().findobj(Text))

    write_predictions(predictions, [Sample("1.mp4", (0, 2))], torch.ones(1, 3), read[:1], ["a", "b", "c"], True)
    with pytest.raises(UserError, match="several labels"):
        read_run(str(tmp_path)).confusion()
