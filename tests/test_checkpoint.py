"""Checkpoint files: atomic, found, verified, limited in number, and refused when they are something else."""

import os
import random

import pytest
import torch

from slowfast_uniformer import checkpoint
from slowfast_uniformer.errors import UserError

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
    assert checkpoint.newest(out) is None
    for epoch, step in ((2, None), (10, None), (9, None), (9, 95), (9, 900)):
        checkpoint.write(checkpoint.path_of(out, epoch, step), STATE)
    checkpoint.write(checkpoint.path_of_best(out), STATE)
    open(checkpoint.path_of(out, 11) + ".tmp", "w").close()
    assert checkpoint.newest(out) == checkpoint.path_of(out, 10)
    os.remove(checkpoint.path_of(out, 10))
    assert checkpoint.newest(out) == checkpoint.path_of(out, 9, 900)
    assert torch.equal(checkpoint.load(checkpoint.newest(out))["model_state"]["w"], torch.arange(4000.0))
    checkpoint.clean(out)
    assert not any(name.endswith(".tmp") for name in names(tmp_path))


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, caplog):
    out = str(tmp_path)
    good, flipped, cut = (checkpoint.path_of(out, epoch) for epoch in (1, 2, 3))
    for path in (good, flipped, cut):
        checkpoint.write(path, STATE)
    flip(flipped, 8 * os.path.getsize(flipped) // 2)
    os.truncate(cut, os.path.getsize(cut) // 2)
    assert checkpoint.newest(out) == good
    assert all(any(path in message and "damaged" in message for message in caplog.messages)
               for path in (flipped, cut))  # fmt: skip


def test_no_turned_bit_changes_what_is_read_unnoticed(tmp_path):
    path = checkpoint.path_of(str(tmp_path), 1)
    draw = random.Random(0)
    for _ in range(150):
        checkpoint.write(path, STATE)
        flip(path, draw.randrange(8 * os.path.getsize(path)))
        if not checkpoint.damage(path):  # it was in what fills the space between the parts
            read = checkpoint.load(path)
            assert read["epoch"] == 3 and torch.equal(read["model_state"]["w"], torch.arange(4000.0))


def test_a_failed_save_leaves_the_former_file(tmp_path):
    path = checkpoint.path_of(str(tmp_path), 1)
    checkpoint.write(path, STATE)

    class Breaks:
        def __reduce__(self):
            raise OSError("no space left on device")

    with pytest.raises(UserError, match="cannot write the checkpoint .*no space left"):
        checkpoint.write(path, {**STATE, "broken": Breaks()})
    assert checkpoint.load(path)["epoch"] == 3
    assert names(tmp_path) == {"epoch_00001.pyth"}


def test_saving_beside_the_training_takes_what_was_there_when_it_began(tmp_path):
    saver, weights = checkpoint.Saver(str(tmp_path), keep=0), torch.zeros(1 << 22)
    path = checkpoint.path_of(str(tmp_path), 1)
    saver.save([path, checkpoint.path_of_best(str(tmp_path))], {**STATE, "model_state": {"w": weights}})
    saver.staged()
    weights.fill_(1)
    saver.finish(must=True)
    for written in (path, checkpoint.best(str(tmp_path))):
        assert not checkpoint.load(written)["model_state"]["w"].any()


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    saver = checkpoint.Saver(str(tmp_path), keep=2)
    for epoch in range(1, 5):
        also = [checkpoint.path_of_best(str(tmp_path))] if epoch == 1 else []
        saver.save([checkpoint.path_of(str(tmp_path), epoch), *also], {**STATE, "epoch": epoch})
    saver.finish(must=True)
    assert names(tmp_path) == {"epoch_00003.pyth", "epoch_00004.pyth", "best.pyth"}
    assert checkpoint.load(checkpoint.best(str(tmp_path)))["epoch"] == 1


def test_what_cannot_be_written_is_a_warning_until_it_must_be(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    saver = checkpoint.Saver(str(tmp_path), keep=2)
    saver.save([checkpoint.path_of(str(tmp_path), 1)], STATE)
    saver.finish()
    assert "The run goes on" in caplog.text
    with pytest.raises(UserError, match="cannot write the checkpoint .*epoch_00001.* set OUTPUT_DIR"):
        saver.finish(must=True)
    os.remove(tmp_path / "checkpoints")
    saver.save([checkpoint.path_of(str(tmp_path), 2)], STATE)
    saver.finish(must=True)
    assert names(tmp_path) == {"epoch_00002.pyth"}


def test_files_that_are_no_checkpoint_of_a_run_are_refused(tmp_path):
    damaged, weights = str(tmp_path / "damaged.pyth"), str(tmp_path / "weights.pyth")
    checkpoint.write(damaged, STATE)
    with open(damaged, "r+b") as file:
        file.truncate(os.path.getsize(damaged) // 2)
    torch.save({"model_state": {}}, weights)
    for path, said in (
        (damaged, "not a readable checkpoint"),
        (weights, "MODEL.INIT_FROM"),
        ("absent", "no such"),
    ):
        with pytest.raises(UserError, match=said) as error:
            checkpoint.load(path)
        assert path in str(error.value)
