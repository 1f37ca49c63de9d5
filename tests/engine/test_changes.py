"""What a continued run says of its changes."""

import logging

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.train import train
from slowfast_uniformer.runs import checkpoints

SAID = "changed since the checkpoint: "


@pytest.fixture
def again(tiny, caplog):
    """A function that continues a run of one epoch with other options; returns the lines on what has changed."""
    caplog.set_level(logging.INFO)
    options = [*tiny, "SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_EPOCHS", 0.0]
    train(load_config(None, options))

    def call(*overrides: object) -> list[str]:
        caplog.clear()
        train(load_config(None, [*options, *overrides]))
        return [message.removeprefix(SAID) for message in caplog.messages if message.startswith(SAID)]

    return call


def test_nothing_is_said_where_nothing_has_changed(again, caplog, demo, tmp_path):
    """Nor of keys that do not change the result, or that another machine has otherwise."""
    assert again() == []
    moved = tmp_path / "moved"
    moved.symlink_to(demo)
    machine = ["DATA.PATH_TO_DATA_DIR", moved, "DATA.PATH_PREFIX", f"{moved}/videos/", "LOG_PERIOD", 7]
    machine += ["DATA_LOADER.NUM_WORKERS", 1, "TRAIN.CHECKPOINT_STEPS", 5, "MODEL.INIT_FROM", "weights.pyth"]
    assert again(*map(str, machine), "TRAIN.CHECKPOINT_FILE_PATH", "given.pyth") == []
    said = "{} is not used: the run continues from a checkpoint"
    assert said.format("MODEL.INIT_FROM weights.pyth") in caplog.messages
    assert said.format("TRAIN.CHECKPOINT_FILE_PATH given.pyth") in caplog.messages


def test_a_longer_run_says_where_its_learning_rate_goes(again):
    epochs, rate = again("SOLVER.MAX_EPOCH", 4)
    assert epochs == "SOLVER.MAX_EPOCH: 1 -> 4"
    # cosine: half-way of 2 steps, and a quarter of the run
    assert rate == "learning rate: 0.0005 at the last step, 0.000854 at the next"


def test_a_smaller_batch_and_other_keys(again):
    lines = again("TRAIN.BATCH_SIZE", 4, "SOLVER.BASE_LR", 5e-4, "SOLVER.MAX_EPOCH", 2, "RNG_SEED", 3)
    assert lines[:4] == [
        "TRAIN.BATCH_SIZE: 8 -> 4",
        "SOLVER.BASE_LR: 0.001 -> 0.0005",
        "SOLVER.MAX_EPOCH: 1 -> 2",
        "RNG_SEED: 1 -> 3",
    ]
    assert lines[4] == "global batch: 8 -> 4 videos"
    assert lines[5].startswith("learning rate: 0.0005 at the last step, ")  # of two steps, where there are four now


def test_changed_lists(again, demo, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("train.csv", "val.csv", "test.csv", "classes.txt"):
        (lists / name).write_text((demo / name).read_text())
    changed = ["DATA.PATH_TO_DATA_DIR", str(lists)]
    train_lines = (lists / "train.csv").read_text().splitlines(keepends=True)
    (lists / "train.csv").write_text("".join(train_lines[::-1]))
    assert again(*changed) == ["train list: 16 videos as before, but other videos, labels or order"]
    (lists / "train.csv").write_text("".join(train_lines[:12]))
    (lists / "val.csv").write_text("".join(train_lines[:8]))
    assert again(*changed) == ["train list: 16 -> 12 videos", "val list: 9 -> 8 videos"]
    assert again(*changed, "TRAIN.EVAL_PERIOD", 0) == ["TRAIN.EVAL_PERIOD: 1 -> 0", "train list: 16 -> 12 videos"]


def test_checkpoints_of_earlier_versions_say_nothing_of_what_they_lack(again, tmp_path):
    path = checkpoints.checkpoint_path(str(tmp_path / "run"), 1)
    state = checkpoints.load_checkpoint(path)
    del state["inputs"], state["cfg"]["SOLVER"]["CLIP_GRADIENT"]
    checkpoints.write_checkpoint(path, state)
    assert again("TRAIN.BATCH_SIZE", 4) == ["TRAIN.BATCH_SIZE: 8 -> 4"]
    del state["cfg"]
    checkpoints.write_checkpoint(path, state)
    assert again("TRAIN.BATCH_SIZE", 4) == []
