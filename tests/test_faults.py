"""Videos that cannot be read, loading processes that die or hang: named, survived or explained."""

import json
import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.bad_videos import BadFiles
from slowfast_uniformer.data.loader import Loader
from slowfast_uniformer.data.workers import CurrentFiles, worker_errors_explained
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.errors import UserError


def test_bad_files_are_kept_and_shared(tmp_path):
    listed = ["a b.mp4", "c.mp4", *map(str, range(8))]
    mine, other = BadFiles(str(tmp_path), listed), BadFiles(str(tmp_path), listed)
    assert mine.add("a b.mp4", "cannot read a b.mp4:\n empty") and not mine.add("a b.mp4", "again")
    assert other.add("c.mp4", "cannot read c.mp4")
    mine.refresh()
    assert mine.causes.keys() == {"a b.mp4", "c.mp4"}
    assert BadFiles(str(tmp_path), listed).causes["a b.mp4"] == "cannot read a b.mp4: empty"
    assert BadFiles(str(tmp_path), ["c.mp4"]).causes.keys() == {"c.mp4"}  # others are another list's
    mine.check(0.2)
    message = r"2 of 10 videos cannot be read.*MAX_BAD_FRACTION 0.1 (?s:.*)c.mp4"
    with pytest.raises(UserError, match=message):
        mine.check(0.1)


class Faulty(Dataset):
    """Does `act` at item 3."""

    def __init__(self, act):
        self.act, self.in_hand = act, CurrentFiles(1)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.in_hand.set(f"videos/{index}.mp4")
        if index == 3:
            self.act()
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"ended .*reading videos/3.mp4.*NUM_WORKERS"),
        (lambda: time.sleep(60), r"no batch within DATA_LOADER.TIMEOUT, 2 s.*reading videos/3.mp4"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), r"shared memory.*shm-size.*NUM_WORKERS"),
    ],
    ids=["killed", "hanging", "no shared memory"],
)
def test_dead_and_late_loading_processes_are_explained(act, message):
    cfg = load_config(None, ["NUM_GPUS", 0, "DATA_LOADER.TIMEOUT", 2])
    loader = DataLoader(Faulty(act), batch_size=1, num_workers=1, timeout=cfg.DATA_LOADER.TIMEOUT, prefetch_factor=1)
    with pytest.raises(UserError, match=message):
        list(worker_errors_explained(loader, cfg))


def test_a_signal_does_not_end_a_loading_process_that_begins(monkeypatch):
    """A cluster's signal reaches all processes, also those that have just put PyTorch's handlers in place."""
    begin = signal_handling._set_worker_signal_handlers

    def signalled() -> None:
        begin()
        for number in signals.SIGNALS:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled)
    assert len(list(Loader(Faulty(lambda: os.kill(os.getpid(), signal.SIGTERM)), num_workers=1))) == 6
    for number in signals.SIGNALS:  # the process itself hears them again
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_other_errors_pass_through():
    def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        list(worker_errors_explained(DataLoader(Faulty(fail), num_workers=1), load_config(None, ["NUM_GPUS", 0])))


def damage(path, kind: int) -> None:
    """Make a video unreadable, in one of five ways."""
    whole = path.read_bytes()
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.write_text("not a video")
    elif kind == 3:
        path.write_bytes(whole[:500])
    else:
        path.write_bytes(bytes(len(whole)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_over_bad_files_names_each_once_and_passes_over_them(tiny, run_net, tmp_path, workers):
    import shutil

    from conftest import load_script

    data = tmp_path / "data"
    load_script("datasets/make_demo.py").make_demo(data, train=16, val=10, seed=5, size=40, frames=16)
    trained = [line.rsplit(" ", 1)[0] for line in (data / "train.csv").read_text().splitlines()]
    tested = [line.rsplit(" ", 1)[0] for line in (data / "test.csv").read_text().splitlines()]
    bad = trained[:3]
    for kind, name in enumerate(bad):
        damage(data / "videos" / name, kind + 1)
    damage(data / "videos" / tested[4], 0)
    options = [*tiny, "DATA.PATH_TO_DATA_DIR", str(data), "DATA.PATH_PREFIX", str(data / "videos")]
    options += ["DATA_LOADER.NUM_WORKERS", workers]
    status, _, errors = run_net([*options, "SOLVER.MAX_EPOCH", 3, "TEST.MIN_COVERAGE", 90])
    assert status == 0, errors
    listed = (tmp_path / "run" / "bad_files.txt").read_text().splitlines()
    assert sorted(os.path.basename(line.split("\t")[0]) for line in listed) == sorted(map(os.path.basename, bad))
    for name in bad:
        assert errors.count(f"replaced: cannot read {data / 'videos' / name}") == 1
    status, told, errors = run_net([*options, "TRAIN.ENABLE", False])
    assert status == 2 and "1 of 10 videos could not be read" in errors
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["coverage"] for row in rows if row["split"] == "test_final"] == [90.0, 90.0]
    shutil.rmtree(tmp_path / "run")
    status, _, errors = run_net([*options, "DATA.MAX_BAD_FRACTION", 0.1])
    assert status == 2 and "MAX_BAD_FRACTION" in errors and "Traceback" not in errors
