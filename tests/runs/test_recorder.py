"""metrics.jsonl, log lines and TensorBoard: one `Recorder.write` for all, and pictures."""

import errno
import json
import logging
import math
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.summary.writer import event_file_writer
from tensorboard.util.tensor_util import make_ndarray

from slowfast_uniformer.config.keys import get_cfg
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.test import record_evaluation
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import figures
from slowfast_uniformer.runs.recorder import Recorder, _silence_writer_threads, log_line

TRAIN = {"split": "train_iter", "epoch": 1, "lr": 1e-5, "iter": 5, "iters": 9, "loss": 2.5, "top1_acc": 50.0}


@pytest.fixture(autouse=True)
def event_files_in_order(monkeypatch):
    """TensorBoard sorts event files by name: second, host, process and a number, which is a string there. Writers that
    follow each other within a second, as in these tests alone, must not go from 9 to 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


def rows(folder) -> list[dict]:
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def board(folder) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / folder.name), size_guidance={"images": 0}).Reload()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="OUTPUT_DIR: cannot write .*metrics.jsonl"):
        Recorder(str(tmp_path / "file"), False, 0).write(1, TRAIN)


def test_metrics_jsonl_is_strict_json_in_the_given_order(tmp_path):
    log = Recorder(str(tmp_path / "run"), tensorboard=False, rank=0)
    log.write(5, {**TRAIN, "grad_norm": torch.tensor(math.inf), "hits": np.float32(0.5), "bad": math.nan})
    log.write(6, {"split": "test_final", "top1_acc": 7.0, "checkpoint": "a.pyth"})
    first, second = rows(tmp_path / "run")
    assert list(first) == ["step", *TRAIN, "grad_norm", "hits", "bad"]
    assert first == {"step": 5, **TRAIN, "grad_norm": None, "hits": 0.5, "bad": None}
    assert second["checkpoint"] == "a.pyth"
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_log_lines_are_short_and_readable(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train = {**TRAIN, "epoch": 2, "iter": 40, "iters": 75, "loss": 2.345678, "lr": 1.23456e-5, "grad_norm": 1.0}
    train |= {"top1_acc": 31.25, "clips_per_second": 20.123, "memory_mb": 10234.56, "eta_seconds": 3725}
    scores = {"top1_acc": 40.0, "top5_acc": 87.654, "mean_class_acc": math.nan, "coverage": 100.0, "num_videos": 12345}
    recorder = Recorder(str(tmp_path), False, 0)
    recorder.write(5, train)
    recorder.write(5, {**train, "split": "train_epoch", "clips_per_second": 12345.6})
    recorder.write(5, {"split": "val_epoch", "epoch": 2, **scores, "unreadable_videos": 0})
    recorder.write(5, {"split": "test_final", "map": 0.0, "coverage": 99.5, "checkpoint": "a.pyth"})
    shown = "top1 40  top5 87.65  mean_class_acc not finite  coverage 100"
    assert caplog.messages == [
        "epoch 2 [40/75]  loss 2.346  top1 31.25  lr 1.235e-05  clips/s 20.12  eta 1:02:05",
        "epoch 2 mean  loss 2.346  top1 31.25  grad_norm 1  clips/s 12346",
        f"epoch 2 val  {shown}",
        "test  mAP 0  coverage 99.5",
    ]
    assert rows(tmp_path)[0]["memory_mb"] == 10234.56, "metrics.jsonl has all columns"
    assert log_line({"split": "train_iter", "epoch": 1, "iter": 1, "iters": 2}) == "epoch 1 [1/2]"


def test_other_ranks_write_nothing(tmp_path, caplog):
    log = Recorder(str(tmp_path / "run"), tensorboard=True, rank=1)
    log.write(5, TRAIN)
    log.text("note", "hello", 1)
    log.resume(3, 0)
    log.clips("val", [np.zeros((2, 4, 4, 3), np.uint8)], [("a", "a", 1.0)], 5)
    log.close()
    assert not (tmp_path / "run").exists() and not caplog.messages


def test_curves_and_the_table_of_the_test(tmp_path):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.write(5, TRAIN)
    log.write(9, {"split": "val_epoch", "epoch": 1, "top1_acc": 40.0, "loss": math.nan})
    log.write(9, {"split": "test_final", "top1_acc": 44.0, "checkpoint": "a.pyth"})
    log.close()
    events = board(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "train/top1_acc", "val/loss", "val/top1_acc", "watch/lr"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(5, 2.5)]
    assert math.isnan(events.Scalars("val/loss")[0].value)
    (event,) = events.Tensors("results/test")
    assert event.step == 9 and "| top-1 accuracy, % | 44.00 |  |" in text_of(event)


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_table_of_the_test_that_fails_is_a_warning(tmp_path, monkeypatch, caplog, tensorboard):
    monkeypatch.setattr("slowfast_uniformer.runs.recorder.results_text", lambda row: row["none"])
    log = Recorder(str(tmp_path), tensorboard, rank=0)
    log.write(9, {"split": "test_final", "top1_acc": 44.0})
    log.close()
    assert len(rows(tmp_path)) == 1
    assert ("the table of the test cannot be written (KeyError" in caplog.text) == tensorboard


def text_of(event) -> str:
    return make_ndarray(event.tensor_proto).item().decode()


def test_resume_removes_rows_that_will_be_written_again(tmp_path):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    for step in (10, 20, 30):
        log.write(step, {**TRAIN, "loss": float(step)})
    log.write(20, {"split": "val_epoch", "epoch": 2, "top1_acc": 1.0})
    log.write(20, {"split": "val_epoch", "epoch": 3, "top1_acc": 2.0})
    log.write(30, {"split": "test_final", "top1_acc": 3.0})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "spl')  # killed while writing

    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.resume(20, 2)
    log.write(30, {**TRAIN, "loss": 31.0})
    log.close()
    assert [(row["step"], row["split"], row.get("loss")) for row in rows(tmp_path)] == [
        (10, "train_iter", 10.0),
        (20, "train_iter", 20.0),
        (20, "val_epoch", None),
        (30, "test_final", None),
        (30, "train_iter", 31.0),
    ]
    losses = [(event.step, event.value) for event in board(tmp_path).Scalars("train/loss")]
    assert losses == [(10, 10.0), (20, 20.0), (30, 31.0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_pictures_and_texts_reach_tensorboard(tmp_path):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    scores = VideoAggregator(6, 3, 1, "sum", True)
    videos = torch.arange(5)
    scores.update(torch.eye(3).repeat(2, 1)[:5], videos, 0 * videos, torch.tensor([0, 1, 2, 0, 0]))
    scores.fail(5, 1)
    log.config(get_cfg())
    record_evaluation(log, "val", scores, ["a", "b", "c"], 7)
    log.clips("val", [np.zeros((4, 8, 8, 3), np.uint8)] * 2, [("a", "a", 0.9), ("b", "c", 0.4)], 7)
    log.close()
    events = board(tmp_path)
    names = ["val_clips", "val_confusion", "val_per_class"]
    assert sorted(events.Tags()["images"]) == [f"visualization/{name}" for name in names]
    assert {events.Images(tag)[0].step for tag in events.Tags()["images"]} == {7}
    config = text_of(events.Tensors("settings/config")[0])
    assert config.startswith("```yaml\n") and "LAYER_DECAY: 1.0" in config and config.endswith("```")


def scored(multi_label: bool = False) -> VideoAggregator:
    """Three videos of classes 0, 1, 1, with predictions 0, 0 and none."""
    scores = VideoAggregator(3, 3, 1, "sum", True, multi_label)
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, -9.0]])
    labels = torch.eye(3, dtype=torch.int64)[[0, 1, 1]] if multi_label else torch.tensor([0, 1, 1])
    scores.update(logits, torch.arange(2), torch.zeros(2, dtype=torch.int64), labels[:2])
    scores.fail(2, labels[2])
    return scores


@pytest.mark.parametrize("multi_label", [False, True])
def test_precision_recall_curves_of_few_classes(tmp_path, multi_label):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    record_evaluation(log, "test", scored(multi_label), ["a", "b/c", "none"], 3)
    many = VideoAggregator(1, 21, 1, "sum", True)
    many.update(torch.eye(1, 21), torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    record_evaluation(log, "val", many, None, 3)
    log.close()
    events = board(tmp_path)
    assert sorted(tag for tag in events.Tags()["tensors"]) == ["test/0 a", "test/1 b/c"]
    (event,) = events.Tensors("test/0 a")
    true, false, _, missed, precision, recall = make_ndarray(event.tensor_proto)
    assert (true[0], false[0], missed[0], recall[0]) == (1, 2, 0, 1.0) and event.step == 3
    assert precision[0] == pytest.approx(1 / 3)
    (event,) = events.Tensors("test/1 b/c")
    assert make_ndarray(event.tensor_proto)[0][1] == 1  # a failed video has probability 0


def test_table_of_hyperparameters_lists_the_run(tmp_path):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    overrides = ["NUM_GPUS", 0, "UNIFORMER.SPLIT", True, "UNIFORMER.DEPTH", [1, 1, 1, 1], "LOG_PERIOD", 3]
    log.config(load_config(None, overrides))
    log.close()
    content = board(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = dict(metadata.parse_session_start_info_plugin_data(content).hparams)
    assert found["SOLVER.BASE_LR"].number_value == 0.1 and found["AUG.ENABLE"].string_value == "False"
    assert found["UNIFORMER.SPLIT"].string_value == "True"
    assert found["UNIFORMER.DEPTH"].string_value == "[1, 1, 1, 1]"
    assert "LOG_PERIOD" not in found and "OUTPUT_DIR" not in found
    assert [path.name.split(".")[0] for path in (tmp_path / "tensorboard" / tmp_path.name).iterdir()] == ["events"]


def test_projector_shows_features_names_and_pictures(tmp_path):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.embedding("val", torch.arange(6.0).view(3, 2), ["a", "b\tb", "c\nc"], torch.rand(3, 3, 8, 8), 7)
    log.close()
    folder = tmp_path / "tensorboard" / tmp_path.name / "00007" / "val"
    assert (folder / "metadata.tsv").read_text() == "a\nb b\nc c\n"
    assert (folder / "tensors.tsv").read_text() == "0.0\t1.0\n2.0\t3.0\n4.0\t5.0\n"
    assert (folder / "sprite.png").stat().st_size > 0


def test_without_tensorboard_a_warning_once(tmp_path, monkeypatch, caplog):
    for name in ("torch.utils.tensorboard", "tensorboard.plugins.text.summary_v2"):
        monkeypatch.setitem(sys.modules, name, None)
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.config(get_cfg())
    log.write(1, TRAIN)
    log.write(2, TRAIN)
    log.close()
    assert len(rows(tmp_path)) == 2
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "TENSORBOARD.ENABLE" in warnings[0]


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


PICTURES = {
    "the confusion matrix": ("draw_confusion", lambda log: log.confusion("val", np.eye(2, dtype=int), ["a", "b"], 1)),
    "the per-class accuracy": ("draw_per_class", lambda log: log.per_class("val", np.ones(2), ["a", "b"], 1)),
    "the clips": ("draw_clips", lambda log: log.clips("val", [np.zeros((1, 4, 4, 3), np.uint8)], [("a", "a", 1.0)], 1)),
    "TensorBoard": ("", lambda log: log.embedding("val", "no features", ["a"], None, 1)),
}


@pytest.mark.parametrize("what", PICTURES)
@pytest.mark.parametrize("fault", [ValueError("a\n  b"), MemoryError(), SystemExit(3)], ids=lambda f: type(f).__name__)
def test_a_picture_that_fails_is_one_warning_in_training_and_test_together(tmp_path, monkeypatch, caplog, what, fault):
    def fail(*_):
        raise fault

    function, draw = PICTURES[what]
    if function:
        monkeypatch.setattr(figures, function, fail)
    for _ in range(2):
        log = Recorder(str(tmp_path), tensorboard=True, rank=0)
        draw(log)
        draw(log)
        log.write(5, TRAIN)
        log.close()
    (said,) = warnings_in(caplog)
    assert said.startswith(f"{what} cannot be written (") and "the run goes on" in said
    if function:
        assert type(fault).__name__ in said and "\n" not in said
    assert len(rows(tmp_path)) == 2 and len(board(tmp_path).Scalars("train/loss")) == 2
    log.resume(5, 0)  # another training
    draw(log)
    assert len(warnings_in(caplog)) == 2


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), signals.Interrupted()], ids=lambda f: type(f).__name__)
def test_what_ends_a_run_is_not_taken_for_a_fault(tmp_path, caplog, fault):
    with pytest.raises(type(fault)), Recorder(str(tmp_path), True, 0).optional("a picture"):
        raise fault
    assert not warnings_in(caplog)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_below_tensorboard_is_one_warning_and_later_values_are_drawn(tmp_path, monkeypatch, caplog):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.resume(0, 0)
    log.write(1, TRAIN)
    with monkeypatch.context() as full:
        full.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", no_space)
        full.setattr("slowfast_uniformer.runs.recorder._probe", no_space)
        for step in (2, 3, 4):
            log.write(step, TRAIN)
            log.confusion("val", np.eye(2, dtype=int), None, step)
    log.write(5, TRAIN)
    log.close()
    (said,) = warnings_in(caplog)
    assert said.startswith("TensorBoard cannot be written (OSError: [Errno 28] No space left on device)")
    assert len(rows(tmp_path)) == 5
    assert [event.step for event in board(tmp_path).Scalars("train/loss")] == [1, 5]
    assert not list((tmp_path / "tensorboard").rglob(".*")), "no file of a trial is left"


def test_a_tensorboard_folder_that_is_a_file(tmp_path, caplog):
    (tmp_path / "tensorboard").touch()
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.config(get_cfg())
    log.write(1, TRAIN)
    log.write(2, TRAIN)
    log.close()
    assert len(warnings_in(caplog)) == 1 and len(rows(tmp_path)) == 2


def test_a_full_disk_for_the_metrics_is_one_warning(tmp_path, monkeypatch, caplog):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = Recorder(str(tmp_path), tensorboard=False, rank=0)
    with monkeypatch.context() as full:
        full.setattr("slowfast_uniformer.runs.recorder.append_json_lines", no_space)
        for step in (1, 2, 3):
            log.write(step, TRAIN)
    log.write(4, TRAIN)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert len(warnings_in(caplog)) == 1


def test_writing_threads_of_tensorboard_print_no_traceback(monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    _silence_writer_threads.cache_clear()
    _silence_writer_threads()
    for thread in (threading.Thread(), event_file_writer._AsyncWriterThread(None, None, 1)):
        threading.excepthook(SimpleNamespace(thread=thread))
    assert [type(fault.thread) for fault in shown] == [threading.Thread]
    _silence_writer_threads.cache_clear()
