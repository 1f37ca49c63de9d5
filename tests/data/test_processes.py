"""Work in processes: results, errors, processes that die, the end by Ctrl-C."""

import multiprocessing
import os
import signal
import time

import pytest

from slowfast_uniformer.data import processes
from slowfast_uniformer.data.processes import check_stop, work


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Processes are forked, which takes no imports."""
    monkeypatch.setattr(processes, "get_context", lambda _: multiprocessing.get_context("fork"))


def square(number):
    if number == 3:
        os._exit(1)
    if number == 5:
        raise ValueError("five")
    return number**2


def endless(number):
    if number == 0:
        os.kill(os.getppid(), signal.SIGINT)  # as Ctrl-C does
    while True:
        check_stop()
        time.sleep(0.01)


def test_a_process_that_dies_costs_its_own_item():
    found = dict(work(square, [1, 2, 3, 4], 2, lambda item: f"{item} died"))
    assert found == {1: 1, 2: 4, 3: "3 died", 4: 16}
    assert dict(work(square, [1, 2], 0, str)) == {1: 1, 2: 4}


def test_an_error_ends_the_work():
    with pytest.raises(ValueError, match="five"):
        list(work(square, [5, 6], 1, str))


def test_ctrl_c_ends_what_is_under_way():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        list(work(endless, range(4), 2, str))
    assert multiprocessing.active_children() == [] and signal.getsignal(signal.SIGINT) is handler
