"""Checkpoint files: atomic, found, and refused when they are something else."""

import os

import pytest
import torch

from slowfast_uniformer import checkpoint
from slowfast_uniformer.errors import UserError

STATE = {"model_state": {"w": torch.ones(2)}, "optimizer_state": {}, "epoch": 3}


def test_newest_is_of_most_epochs_and_ignores_half_written_files(tmp_path):
    out = str(tmp_path)
    assert checkpoint.newest(out) is None
    for epoch in (2, 10, 9):
        checkpoint.save(checkpoint.path_of_epoch(out, epoch), STATE)
    checkpoint.save(checkpoint.path_of_best(out), STATE)
    open(checkpoint.path_of_epoch(out, 11) + ".tmp", "w").close()
    assert checkpoint.newest(out) == checkpoint.path_of_epoch(out, 10)
    assert torch.equal(checkpoint.load(checkpoint.newest(out))["model_state"]["w"], torch.ones(2))


def test_a_failed_save_leaves_the_former_file(tmp_path):
    path = str(tmp_path / "checkpoints" / "epoch_00001.pyth")
    checkpoint.save(path, STATE)

    class Breaks:
        def __reduce__(self):
            raise OSError("no space left on device")

    with pytest.raises(UserError, match="cannot write the checkpoint .*no space left"):
        checkpoint.save(path, {**STATE, "broken": Breaks()})
    assert checkpoint.load(path)["epoch"] == 3
    assert os.listdir(os.path.dirname(path)) == ["epoch_00001.pyth"]


def test_files_that_are_no_checkpoint_of_a_run_are_refused(tmp_path):
    damaged, weights = str(tmp_path / "damaged.pyth"), str(tmp_path / "weights.pyth")
    checkpoint.save(damaged, STATE)
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
