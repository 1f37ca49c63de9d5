"""One rank of a machine reads a long list, the others map it."""

import os
import subprocess

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations, shared_lists
from slowfast_uniformer.errors import UserError


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """A function that loads the train list as another rank would; returns it and whether it was read."""
    monkeypatch.setattr(shared_lists, "MIN_BYTES", 1)
    monkeypatch.setattr(shared_lists.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(shared_lists.atexit, "register", lambda *_, **__: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "train.csv").write_text("a.mp4 1\nb.mp4 2\n")
    read, readings = annotations._read, []
    monkeypatch.setattr(annotations, "_read", lambda *args: readings.append(args) or read(*args))

    def call(*overrides):
        annotations._loaded.clear()
        readings.clear()
        base = ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(tmp_path), "MODEL.NUM_CLASSES", 3]
        samples = annotations.load(load_config(None, [*base, *overrides]), "train")
        return [(sample.path, sample.label) for sample in samples], bool(readings)

    return call


def folder_of(tmp_path):
    return next((tmp_path / "tmp").iterdir())


def test_a_list_is_read_once(rank, tmp_path):
    expected = [("a.mp4", 1), ("b.mp4", 2)]
    assert rank() == (expected, True) and rank() == (expected, False)
    assert rank("DATA.PATH_PREFIX", "x") == ([("x/a.mp4", 1), ("x/b.mp4", 2)], True)
    (tmp_path / "train.csv").write_text("a.mp4 1\nb.mp4 2\nc.mp4 0\n")
    assert rank() == ([*expected, ("c.mp4", 0)], True)
    assert folder_of(tmp_path).stat().st_mode & 0o777 == 0o700


def test_one_rank_alone_writes_nothing(rank, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert rank()[1] and rank()[1] and not any((tmp_path / "tmp").iterdir())


def test_a_short_list_is_not_shared(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_lists, "MIN_BYTES", 100)
    assert rank()[1] and rank()[1] and not any((tmp_path / "tmp").iterdir())


def test_files_of_ended_runs_are_removed(rank, tmp_path):
    rank()
    folder = folder_of(tmp_path)
    (own,) = [file for file in folder.iterdir() if file.name != "lock"]
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f"{ended.pid}.1.x", f"{os.getpid()}.1.x", f".{ended.pid}.{own.name}"):
        (folder / name).touch()
    assert rank("MODEL.NUM_CLASSES", 4)[1]
    assert own.exists() and len(list(folder.iterdir())) == 3


def test_a_machine_where_nothing_can_be_shared(rank, tmp_path, monkeypatch):
    rank()
    folder_of(tmp_path).chmod(0o755)  # others could have put files there
    assert rank()[1] and rank()[1]
    monkeypatch.setattr(shared_lists.tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    assert rank()[1]


def test_a_faulty_list_is_reported_by_every_rank(rank, tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 1\nb.mp4 3\n")
    for _ in range(2):
        with pytest.raises(UserError, match="train.csv, line 2: label 3"):
            rank()
