"""Checkpoints: written atomically and in the background, found, verified, pruned, and refused when damaged."""

import json
import logging
import os
import random
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.distributed.checkpoint as dcp

from slowfast_uniformer.distributed import collectives
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.files import read_tensors
from slowfast_uniformer.weights.resolve import find_weights

NAMES = ("00002", "00009", "00009_step_00000095", "00009_step_00000900")
STATE = {"model_state": {"w": torch.arange(4000.0)}, "optimizer_state": {}, "epoch": 3}


def names(folder) -> set[str]:
    return set(os.listdir(folder / "checkpoints"))


def flip(path: str, bit: int) -> None:
    """Flip one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_latest_is_by_epoch_and_step_and_ignores_temporary_files(tmp_path):
    out = str(tmp_path)
    assert checkpoints.latest(out) is None
    for epoch, step in ((2, None), (10, None), (9, None), (9, 95), (9, 900)):
        checkpoints.write_checkpoint(checkpoints.checkpoint_path(out, epoch, step), STATE)
    checkpoints.write_checkpoint(checkpoints.best_path(out), STATE)
    os.mkdir(checkpoints.checkpoint_path(out, 11, sharded=True) + ".tmp")
    (tmp_path / "checkpoints" / ".123.epoch_00011.pyth").touch()
    assert checkpoints.latest(out) == checkpoints.checkpoint_path(out, 10)
    os.remove(checkpoints.checkpoint_path(out, 10))
    assert checkpoints.latest(out) == checkpoints.checkpoint_path(out, 9, 900)
    assert torch.equal(checkpoints.load_checkpoint(checkpoints.latest(out))["model_state"]["w"], torch.arange(4000.0))
    checkpoints.remove_temporary(out)
    assert names(tmp_path) == {*(f"epoch_{name}.pyth" for name in NAMES), "best.pyth"}


def test_a_temporary_file_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    folder = Path(checkpoints.checkpoint_dir(str(tmp_path)))
    folder.mkdir()
    (folder / ".1.epoch_00001.pyth").write_text("half")
    monkeypatch.setattr(os, "remove", Mock(side_effect=OSError(116, "Stale file handle")))
    checkpoints.remove_temporary(str(tmp_path))
    assert "cannot remove the temporary file .1.epoch_00001.pyth: Stale file handle" in caplog.text


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, caplog):
    out = str(tmp_path)
    good, flipped, cut = (checkpoints.checkpoint_path(out, epoch) for epoch in (1, 2, 3))
    for path in (good, flipped, cut):
        checkpoints.write_checkpoint(path, STATE)
    flip(flipped, 8 * os.path.getsize(flipped) // 2)
    os.truncate(cut, os.path.getsize(cut) // 2)
    assert checkpoints.latest(out) == good
    assert all(any(path in message and "damaged" in message for message in caplog.messages) for path in (flipped, cut))


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = checkpoints.checkpoint_path(str(tmp_path), 1)
    draw = random.Random(0)
    for _ in range(150):
        checkpoints.write_checkpoint(path, STATE)
        flip(path, draw.randrange(8 * os.path.getsize(path)))
        if not checkpoints.find_damage(path):  # it was in the padding between the records
            read = checkpoints.load_checkpoint(path)
            assert read["epoch"] == 3 and torch.equal(read["model_state"]["w"], torch.arange(4000.0))


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = checkpoints.checkpoint_path(str(tmp_path), 1)
    checkpoints.write_checkpoint(path, STATE)

    class Breaks:
        def __reduce__(self):
            raise OSError("no space left on device")

    with pytest.raises(UserError, match="cannot write the checkpoint .*no space left"):
        checkpoints.write_checkpoint(path, {**STATE, "broken": Breaks()})
    assert checkpoints.load_checkpoint(path)["epoch"] == 3
    assert names(tmp_path) == {"epoch_00001.pyth"}


def test_a_background_checkpoint_holds_the_weights_at_its_start(tmp_path):
    saver, weights = checkpoints.CheckpointSaver(str(tmp_path), keep=0), torch.zeros(1 << 22)
    path = checkpoints.checkpoint_path(str(tmp_path), 1)
    saver.save([path, checkpoints.best_path(str(tmp_path))], {**STATE, "model_state": {"w": weights}})
    saver.wait_staged()
    weights.fill_(1)
    saver.finish(raise_on_failure=True)
    for written in (path, checkpoints.find_best(str(tmp_path))):
        assert not checkpoints.load_checkpoint(written)["model_state"]["w"].any()


@pytest.mark.parametrize("stored", ["config.yaml", "config_resolved.yaml", "checkpoint"])
@pytest.mark.parametrize("best", [False, True])
def test_a_runs_folder_means_the_checkpoint_that_its_own_test_takes(tmp_path, stored, best):
    config = {"TEST": {"TEST_BEST": best}}
    out, state = str(tmp_path), {**STATE, "optimizer_state": {}, "epoch": 1}
    paths = [checkpoints.checkpoint_path(out, epoch) for epoch in (1, 2)]
    checkpoints.write_checkpoint(paths[0], state)
    assert checkpoints.find_checkpoint(out) == paths[0]
    for path in (paths[1], checkpoints.best_path(out)):
        checkpoints.write_checkpoint(path, state | ({"cfg": config} if stored == "checkpoint" else {}))
    if stored != "checkpoint":
        (tmp_path / "config.yaml").write_text("TEST: {TEST_BEST: false}")  # where there are two, the user's own one
        (tmp_path / stored).write_text(json.dumps(config))
    wanted = checkpoints.best_path(out) if best else paths[1]
    assert checkpoints.find_checkpoint(out) == find_weights(out) == wanted
    assert checkpoints.find_checkpoint(out, resume=True) == paths[1]
    other = paths[1] if best else checkpoints.best_path(out)
    for path in {*paths, wanted} - {other}:
        os.remove(path)
    assert checkpoints.find_checkpoint(out) == other, "the only one"


def test_a_damaged_config_of_a_run_does_not_hide_its_checkpoint(tmp_path, caplog):
    path = checkpoints.checkpoint_path(str(tmp_path), 1)
    checkpoints.write_checkpoint(path, {**STATE, "optimizer_state": {}, "epoch": 1})
    (tmp_path / "config.yaml").write_text("TEST: [")
    assert checkpoints.find_checkpoint(str(tmp_path)) == path
    assert "config.yaml" in caplog.text and "The config in the latest checkpoint is used" in caplog.text


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=2)
    for epoch in range(1, 5):
        also = [checkpoints.best_path(str(tmp_path))] if epoch == 1 else []
        saver.save([checkpoints.checkpoint_path(str(tmp_path), epoch), *also], {**STATE, "epoch": epoch})
    saver.finish(raise_on_failure=True)
    assert names(tmp_path) == {"epoch_00003.pyth", "epoch_00004.pyth", "best.pyth"}
    assert checkpoints.load_checkpoint(checkpoints.find_best(str(tmp_path)))["epoch"] == 1


def test_damaged_later_ones_do_not_count_among_those_that_are_kept(tmp_path):
    """They were skipped when the run was continued before them: what it writes now is the latest."""
    for epoch in (3, 7, 8):
        checkpoints.write_checkpoint(checkpoints.checkpoint_path(str(tmp_path), epoch), STATE)
    for epoch in (7, 8):
        with open(checkpoints.checkpoint_path(str(tmp_path), epoch), "w") as file:
            file.write("damaged")
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=2)
    for epoch in (4, 5):
        saver.save([checkpoints.checkpoint_path(str(tmp_path), epoch)], STATE)
    saver.finish(raise_on_failure=True)
    assert names(tmp_path) == {f"epoch_0000{epoch}.pyth" for epoch in (4, 5, 7, 8)}
    assert checkpoints.latest(str(tmp_path)) == checkpoints.checkpoint_path(str(tmp_path), 5)


def test_a_checkpoint_that_cannot_be_written_is_a_warning_unless_it_must_be(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=2)
    saver.save([checkpoints.checkpoint_path(str(tmp_path), 1)], STATE)
    saver.finish()
    assert "Training continues" in caplog.text
    with pytest.raises(UserError, match="cannot write the checkpoint .*epoch_00001.* set OUTPUT_DIR"):
        saver.finish(raise_on_failure=True)
    os.remove(tmp_path / "checkpoints")
    saver.save([checkpoints.checkpoint_path(str(tmp_path), 2)], STATE)
    saver.finish(raise_on_failure=True)
    assert names(tmp_path) == {"epoch_00002.pyth"}


def raising(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        ("_copy_to_cpu", MemoryError("cannot allocate 8 bytes"), "MemoryError: cannot allocate 8 bytes"),
        ("_link_file", OSError(28, "No space left on device"), "No space left on device"),
        ("_write_file", KeyError("w"), "KeyError: 'w'"),
    ],
)
def test_any_exception_in_the_background_thread_is_reported(tmp_path, monkeypatch, caplog, function, error, said):
    saver, path = checkpoints.CheckpointSaver(str(tmp_path), keep=1), checkpoints.checkpoint_path(str(tmp_path), 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, function, raising(error))
        saver.save([path, checkpoints.best_path(str(tmp_path))], STATE)
        saver.wait_staged()
        saver.finish()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said in warning and path in warning and "Training continues" in warning
    with pytest.raises(UserError, match=re.escape(said)):
        saver.finish(raise_on_failure=True)
    saver.save([path], STATE)
    saver.finish(raise_on_failure=True)


def test_an_exception_in_a_sharded_write_is_reported(tmp_path, monkeypatch, caplog):
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=1, group="all ranks")
    monkeypatch.setattr(checkpoints, "_write_folder", raising(KeyError("model_state/w")))
    saver.save([checkpoints.checkpoint_path(str(tmp_path), 1, sharded=True)], STATE)
    saver.finish()
    assert "KeyError: 'model_state/w'" in caplog.text
    with pytest.raises(UserError, match="epoch_00001.dcp: KeyError"):
        saver.finish(raise_on_failure=True)


def test_no_rank_waits_for_one_that_failed(tmp_path, monkeypatch):
    """Before a collective the ranks tell each other of failures: here another rank has no memory."""
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=1, group="all ranks")
    monkeypatch.setattr(collectives, "all_gather_objects", lambda fault, group: [fault, "MemoryError"])
    monkeypatch.setattr(checkpoints, "_write_folder", lambda *_: pytest.fail("this rank began the collective write"))
    saver.save([checkpoints.checkpoint_path(str(tmp_path), 1, sharded=True)], STATE)
    with pytest.raises(UserError, match="cannot write the checkpoint .*epoch_00001.dcp: RuntimeError: MemoryError"):
        saver.finish(raise_on_failure=True)


def test_old_checkpoints_that_cannot_be_removed_are_a_warning(tmp_path, monkeypatch, caplog):
    saver = checkpoints.CheckpointSaver(str(tmp_path), keep=1)
    monkeypatch.setattr(checkpoints, "_remove", raising(PermissionError(13, "Permission denied")))
    for epoch in (1, 2):
        saver.save([checkpoints.checkpoint_path(str(tmp_path), epoch)], STATE)
    saver.finish(raise_on_failure=True)
    assert saver.failed is None and names(tmp_path) == {"epoch_00001.pyth", "epoch_00002.pyth"}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "cannot remove old checkpoints" in warning and "Permission denied" in warning


def test_only_the_tensors_asked_for_are_read_from_a_folder(tmp_path, monkeypatch):
    """As a test of a sharded run does on each rank: EMA weights alone, neither optimizer nor model."""
    path = checkpoints.checkpoint_path(str(tmp_path), 3, sharded=True)
    exp_avg = {"method": "adamw", "state": {"w": {"exp_avg": torch.ones(4000)}}}
    states = {name: {"w": torch.full((4000,), float(value))} for value, name in enumerate(("model_state", "ema_state"))}
    checkpoints.write_checkpoint(path, {**STATE, **states, "optimizer_state": exp_avg, "step": 7}, group="all ranks")
    assert checkpoints.find_damage(path) == "" and checkpoints.latest(str(tmp_path)) == path
    everything = checkpoints.load_checkpoint(path)
    assert everything["optimizer_state"]["state"]["w"]["exp_avg"].sum() == 4000 and everything["step"] == 7
    values = checkpoints.load_checkpoint(path, only=())
    assert values["optimizer_state"] == {"method": "adamw", "state": {"w": {}}} and values["model_state"] == {}
    read = []
    monkeypatch.setattr(
        dcp, "load", lambda tensors, load=dcp.load, **options: read.extend(tensors) or load(tensors, **options)
    )
    tensors, metadata = read_tensors(path)
    assert read == ["ema_state/w"] and tensors["w"].unique() == 1 and metadata == {"step": 7}
    checkpoints.write_checkpoint(path, {**STATE, "ema_state": None}, group="all ranks")
    read.clear()
    tensors, _ = read_tensors(path)
    assert read == ["model_state/w"] and torch.equal(tensors["w"], STATE["model_state"]["w"])


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
