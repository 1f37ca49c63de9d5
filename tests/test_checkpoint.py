"""Checkpoint files: atomic, found, verified, limited in number, and refused when they are something else."""

import os
import random

import pytest
import torch

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints

STATE = {"model_state": {"w": torch.arange(4000.0)}, "optimizer_state": {}, "epoch": 3}


def names(folder) -> set[str]:
    return set(os.listdir(folder / "checkpoints"))


def flip(path: str, bit: int) -> None:
    """Turn one bit of a file over."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_newest_is_farthest_on_and_ignores_half_written_files(tmp_path):
    out = str(tmp_path)
    assert checkpoints.latest(out) is None
    for epoch, step in ((2, None), (10, None), (9, None), (9, 95), (9, 900)):
        checkpoints.write_checkpoint(checkpoints.checkpoint_path(out, epoch, step), STATE)
    checkpoints.write_checkpoint(checkpoints.best_path(out), STATE)
    open(checkpoints.checkpoint_path(out, 11) + ".tmp", "w").close()
    assert checkpoints.latest(out) == checkpoints.checkpoint_path(out, 10)
    os.remove(checkpoints.checkpoint_path(out, 10))
    assert checkpoints.latest(out) == checkpoints.checkpoint_path(out, 9, 900)
    assert torch.equal(checkpoints.load_checkpoint(checkpoints.latest(out))["model_state"]["w"], torch.arange(4000.0))
    checkpoints.remove_temporary(out)
    assert not any(name.endswith(".tmp") for name in names(tmp_path))


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, caplog):
    out = str(tmp_path)
    good, flipped, cut = (checkpoints.checkpoint_path(out, epoch) for epoch in (1, 2, 3))
    for path in (good, flipped, cut):
        checkpoints.write_checkpoint(path, STATE)
    flip(flipped, 8 * os.path.getsize(flipped) // 2)
    os.truncate(cut, os.path.getsize(cut) // 2)
    assert checkpoints.latest(out) == good
    assert all(any(path in message and "damaged" in message for message in caplog.messages) for path in (flipped, cut))


def test_no_turned_bit_changes_what_is_read_unnoticed(tmp_path):
    path = checkpoints.checkpoint_path(str(tmp_path), 1)
    draw = random.Random(0)
    for _ in range(150):
        checkpoints.write_checkpoint(path, STATE)
        flip(path, draw.randrange(8 * os.path.getsize(path)))
        if not checkpoints.find_damage(path):  # it was in what fills the space between the parts
            read = checkpoints.load_checkpoint(path)
            assert read["epoch"] == 3 and torch.equal(read["model_state"]["w"], torch.arange(4000.0))


def test_a_failed_save_leaves_the_former_file(tmp_path):
    path = checkpoints.checkpoint_path(str(tmp_path), 1)
    checkpoints.write_checkpoint(path, STATE)

    class Breaks:
        def __reduce__(self):
            raise OSError("no space left on device")

    with pytest.raises(UserError, match="cannot write the checkpoint .*no space left"):
        checkpoints.write_checkpoint(path, {**STATE, "broken": Breaks()})
    assert checkpoints.load_checkpoint(path)["epoch"] == 3
    assert names(tmp_path) == {"epoch_00001.pyth"}


def test_saving_beside_the_training_takes_what_was_there_when_it_began(tmp_path):
    saver, weights = checkpoints.CheckpointSaver(str(tmp_path), keep=0), torch.zeros(1 << 22)
    path = checkpoints.checkpoint_path(str(tmp_path), 1)
    saver.save([path, checkpoints.best_path(str(tmp_path))], {**STATE, "model_state": {"w": weights}})
    saver.staged()
    weights.fill_(1)
    saver.finish(must=True)
    for written in (path, checkpoints.find_best(str(tmp_path))):
        assert not checkpoints.load_checkpoint(written)["model_state"]["w"].any()


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=2)
    for epoch in range(1, 5):
        also = [checkpoints.best_path(str(tmp_path))] if epoch == 1 else []
        saver.save([checkpoints.checkpoint_path(str(tmp_path), epoch), *also], {**STATE, "epoch": epoch})
    saver.finish(must=True)
    assert names(tmp_path) == {"epoch_00003.pyth", "epoch_00004.pyth", "best.pyth"}
    assert checkpoints.load_checkpoint(checkpoints.find_best(str(tmp_path)))["epoch"] == 1


def test_what_cannot_be_written_is_a_warning_until_it_must_be(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=2)
    saver.save([checkpoints.checkpoint_path(str(tmp_path), 1)], STATE)
    saver.finish()
    assert "The run goes on" in caplog.text
    with pytest.raises(UserError, match="cannot write the checkpoint .*epoch_00001.* set OUTPUT_DIR"):
        saver.finish(must=True)
    os.remove(tmp_path / "checkpoints")
    saver.save([checkpoints.checkpoint_path(str(tmp_path), 2)], STATE)
    saver.finish(must=True)
    assert names(tmp_path) == {"epoch_00002.pyth"}


def test_files_that_are_no_checkpoint_of_a_run_are_refused(tmp_path):
    damaged, weights = str(tmp_path / "damaged.pyth"), str(tmp_path / "weights.pyth")
    checkpoints.write_checkpoint(damaged, STATE)
    with open(damaged, "r+b") as file:
        file.truncate(os.path.getsize(damaged) // 2)
    torch.save({"model_state": {}}, weights)
    for path, said in ((damaged, "not a readable checkpoint"), (weights, "MODEL.INIT_FROM"), ("absent", "no such")):
        with pytest.raises(UserError, match=said) as error:
            checkpoints.load_checkpoint(path)
        assert path in str(error.value)
