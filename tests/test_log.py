"""The record of a run, what mirrors it, and its pictures."""

import json
import logging
import math
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from slowfast_uniformer.config.keys import get_cfg
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.log import progress, setup_logging
from slowfast_uniformer.runs.recorder import Recorder

TRAIN = {"split": "train_iter", "epoch": 1, "lr": 1e-5, "iter": 5, "iters": 9, "loss": 2.5, "top1_acc": 50.0}


@pytest.fixture(autouse=True)
def logging_as_before():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def rows(folder) -> list[dict]:
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def board(folder) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()


def test_lines_go_to_the_console_and_the_file_once(tmp_path, capsys):
    setup_logging()
    setup_logging(str(tmp_path / "run"))
    setup_logging(str(tmp_path / "run"))
    logging.getLogger("slowfast_uniformer.any").info("training %d", 5)
    logging.getLogger("elsewhere").warning("odd")
    logging.getLogger("elsewhere").debug("details")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["training 5", "warning: odd"]
    captured = capsys.readouterr()
    assert captured.err.splitlines() == lines and captured.out == ""


def test_other_ranks_show_trouble_only_and_keep_logs_of_their_own(tmp_path, capsys):
    setup_logging(str(tmp_path), rank=3)
    logging.info("training")
    logging.error("no")
    lines = (tmp_path / "logs" / "rank_3.txt").read_text().splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["[rank 3] training", "[rank 3] error: no"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="OUTPUT_DIR: cannot write .*file/log.txt"):
        setup_logging(str(tmp_path / "file"))
    with pytest.raises(UserError, match="OUTPUT_DIR: cannot write .*metrics.jsonl"):
        Recorder(str(tmp_path / "file"), False, 0).write(1, TRAIN)


def test_record_is_strict_json_in_the_order_given(tmp_path):
    log = Recorder(str(tmp_path / "run"), tensorboard=False, rank=0)
    log.write(5, {**TRAIN, "grad_norm": torch.tensor(math.inf), "hits": np.float32(0.5), "bad": math.nan})
    log.write(6, {"split": "test_final", "top1_acc": 7.0, "checkpoint": "a.pyth"})
    first, second = rows(tmp_path / "run")
    assert list(first) == ["step", *TRAIN, "grad_norm", "hits", "bad"]
    assert first == {"step": 5, **TRAIN, "grad_norm": None, "hits": 0.5, "bad": None}
    assert second["checkpoint"] == "a.pyth"
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_console_line_is_readable(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    figures = {"lr": 1.23456e-5, "loss": 2.345678, "memory_mb": 10234.56, "zero": 0.0, "bad": math.nan}
    Recorder(str(tmp_path), False, 0).write(5, {"split": "val_epoch", **figures, "n": 12345, "eta_seconds": 3725})
    shown = "step 5  lr 1.235e-05  loss 2.346  memory_mb 10235  zero 0  bad not finite  n 12345  eta 1:02:05"
    assert caplog.messages == ["val_epoch  " + shown]


def test_other_ranks_are_silent(tmp_path, caplog):
    log = Recorder(str(tmp_path / "run"), tensorboard=True, rank=1)
    log.write(5, TRAIN)
    log.text("note", "hello")
    log.resume(3, 0)
    log.clips("val", [np.zeros((2, 4, 4, 3), np.uint8)], [("a", "a", 1.0)], 5)
    log.close()
    assert not (tmp_path / "run").exists() and not caplog.messages


def test_scalars_stand_in_sections(tmp_path):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    speed = {"clips_per_second": 20.0, "data_wait_percent": 3.0, "memory_mb": 100.0, "skipped_steps": 0}
    log.write(5, {**TRAIN, **speed, "eta_seconds": 12})
    log.write(9, {**TRAIN, **speed, "split": "train_epoch"})
    log.write(9, {"split": "val_epoch", "epoch": 1, "top1_acc": 40.0, "loss": math.nan})
    log.write(9, {"split": "test_final", "top1_acc": 44.0, "checkpoint": "a.pyth"})
    log.close()
    events = board(tmp_path)
    assert sorted(events.Tags()["scalars"]) == sorted(
        ["train/loss", "train/lr", "train/top1_acc", "watch/clips_per_second", "watch/data_wait_percent"]
        + ["watch/memory_mb", "watch/skipped_steps", "val/top1_acc", "val/loss", "test/top1_acc"]
        + ["train_epoch/loss", "train_epoch/top1_acc"]
    )
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(5, 2.5)]
    assert math.isnan(events.Scalars("val/loss")[0].value)


def test_resume_forgets_what_will_be_repeated(tmp_path):
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
    log.evaluation("val", scores, ["a", "b", "c"], 7)
    log.clips("val", [np.zeros((4, 8, 8, 3), np.uint8)] * 2, [("a", "a", 0.9), ("b", "c", 0.4)], 7)
    log.close()
    events = board(tmp_path)
    assert sorted(events.Tags()["images"]) == ["val/clips", "val/confusion", "val/per_class"]
    assert {events.Images(tag)[0].step for tag in events.Tags()["images"]} == {7}
    config = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert config.startswith("```yaml\n") and "LAYER_DECAY: 1.0" in config and config.endswith("```")


def scored(multi_label: bool = False) -> VideoAggregator:
    """Three videos of classes 0, 1, 1, answered 0, 0 and not at all."""
    scores = VideoAggregator(3, 3, 1, "sum", True, multi_label)
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, -9.0]])
    labels = torch.eye(3, dtype=torch.int64)[[0, 1, 1]] if multi_label else torch.tensor([0, 1, 1])
    scores.update(logits, torch.arange(2), torch.zeros(2, dtype=torch.int64), labels[:2])
    scores.fail(2, labels[2])
    return scores


@pytest.mark.parametrize("multi_label", [False, True])
def test_precision_and_recall_of_few_classes(tmp_path, multi_label):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.evaluation("test", scored(multi_label), ["a", "b/c", "none"], 3)
    many = VideoAggregator(1, 21, 1, "sum", True)
    many.update(torch.eye(1, 21), torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    log.evaluation("val", many, None, 3)
    log.close()
    events = board(tmp_path)
    assert sorted(tag for tag in events.Tags()["tensors"]) == ["test/0 a", "test/1 b/c"]
    (event,) = events.Tensors("test/0 a")
    true, false, _, missed, precision, recall = make_ndarray(event.tensor_proto)
    assert (true[0], false[0], missed[0], recall[0]) == (1, 2, 0, 1.0) and event.step == 3
    assert precision[0] == pytest.approx(1 / 3)
    (event,) = events.Tensors("test/1 b/c")
    assert make_ndarray(event.tensor_proto)[0][1] == 1  # what was not answered has probability 0


def test_table_of_runs_has_the_run_itself_in_it(tmp_path):
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
    assert [path.name.split(".")[0] for path in (tmp_path / "tensorboard").iterdir()] == ["events"]


def test_projector_shows_features_names_and_pictures(tmp_path):
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.embedding("val", torch.arange(6.0).view(3, 2), ["a", "b\tb", "c\nc"], torch.rand(3, 3, 8, 8), 7)
    log.close()
    folder = tmp_path / "tensorboard" / "00007" / "val"
    assert (folder / "metadata.tsv").read_text() == "a\nb b\nc c\n"
    assert (folder / "tensors.tsv").read_text() == "0.0\t1.0\n2.0\t3.0\n4.0\t5.0\n"
    assert (folder / "sprite.png").stat().st_size > 0


def test_without_tensorboard_a_warning_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Recorder(str(tmp_path), tensorboard=True, rank=0)
    log.write(1, TRAIN)
    log.write(2, TRAIN)
    log.text("note", "hello")
    log.close()
    assert len(rows(tmp_path)) == 2
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "TENSORBOARD.ENABLE" in warnings[0]


def test_progress_bar_only_on_a_terminal_of_rank_0(monkeypatch, capsys):
    numbers = [1, 2, 3]
    assert progress(numbers, 3, "epoch 1") is numbers
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(numbers, 3, "epoch 1")) == numbers
    assert "epoch 1" in capsys.readouterr().err
    monkeypatch.setattr(topology, "is_main", lambda: False)
    assert progress(numbers, 3, "epoch 1") is numbers
