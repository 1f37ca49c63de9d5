"""DataLoader workers that die or hang: the error names the video, and only the loader's workers are killed."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import loader as loader_module
from slowfast_uniformer.data.loader import Loader
from slowfast_uniformer.data.workers import CurrentFiles, worker_errors_explained
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.errors import UserError


class Faulty(Dataset):
    """Calls `act` at item 3."""

    def __init__(self, act):
        self.act, self.current_files = act, CurrentFiles(1)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.current_files.set(f"videos/{index}.mp4")
        if index == 3:
            self.act()
        return torch.zeros(1)


@pytest.fixture
def foreign():
    """A child process that another part of the program has started."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(120,), daemon=True)
    process.start()
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"ended .*reading videos/3.mp4.*NUM_WORKERS"),
        (lambda: time.sleep(60), r"no batch within DATA_LOADER.TIMEOUT, 1 s.*reading videos/3.mp4"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), r"shared memory.*shm-size.*NUM_WORKERS"),
    ],
    ids=["killed", "hanging", "no shared memory"],
)
def test_errors_of_dead_and_late_workers_name_the_video_and_foreign_processes_survive(foreign, act, message):
    cfg = load_config(None, ["NUM_GPUS", 0, "DATA_LOADER.TIMEOUT", 1])
    loader = Loader(
        Faulty(act), num_workers=1, timeout=cfg.DATA_LOADER.TIMEOUT, prefetch_factor=1, persistent_workers=True
    )
    with pytest.raises(UserError, match=message):
        list(worker_errors_explained(loader, cfg))
    for worker in loader._iterator._workers:
        worker.join(10)
        assert not worker.is_alive()
    assert foreign.is_alive()


def test_exit_kills_the_workers_of_a_loader_and_no_other_process(foreign):
    loader = Loader(Faulty(lambda: time.sleep(60)), num_workers=1, persistent_workers=True)
    next(iter(loader))
    (worker,) = loader._iterator._workers
    loader_module._kill_at_exit(lambda: loader)
    worker.join(10)  # PyTorch's handler of SIGCHLD raises nothing
    assert not worker.is_alive() and foreign.is_alive()
    loader_module._kill_at_exit(lambda: None)  # a loader that has been freed


def test_a_signal_does_not_end_a_worker_that_starts(monkeypatch):
    """A cluster's signal reaches all processes, also those that have just installed PyTorch's handlers."""
    install = signal_handling._set_worker_signal_handlers

    def signalled() -> None:
        install()
        for number in signals.SIGNALS:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled)
    assert len(list(Loader(Faulty(lambda: os.kill(os.getpid(), signal.SIGTERM)), num_workers=1))) == 6
    for number in signals.SIGNALS:  # the main process receives them again
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_other_errors_pass_through():
    def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        list(worker_errors_explained(DataLoader(Faulty(fail), num_workers=1), load_config(None, ["NUM_GPUS", 0])))
