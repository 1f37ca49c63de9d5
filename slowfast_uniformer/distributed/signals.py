"""Signals that ask a run to end: it finishes its step, writes a checkpoint and leaves with a code of its own.

SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (SLURM's warning before the time is up) ask; a second one stops at once.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 75  # "try again later" in sysexits.h: what starts runs may take it as: start this one again
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_ECHO = 1.0  # seconds; a launcher repeats what the terminal has sent to all its processes: that is one signal

_asked: float | None = None  # when the first signal came


class Interrupted(Exception):
    """The run was asked to end, and has written what it needs to continue."""


@contextmanager
def handle_signals() -> Iterator[None]:
    """Take note of the signals inside the block (in the main thread, the only one that can)."""
    global _asked
    _asked = None
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS} if main else {}
    try:
        yield
    except Interrupted:
        ignore_sigterm_on_exit(before)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = None


def ignore_sigterm_on_exit(before: dict[int, Any]) -> None:
    """Of the handlers that are put back, leave out SIGTERM's: `srun` sends it to the other tasks when the
    first has left, and it must not take the place of their exit code."""
    if before:
        before[signal.SIGTERM] = signal.SIG_IGN


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked is None:
        _asked = time.monotonic()
    elif time.monotonic() - _asked > _ECHO:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def stop_requested() -> bool:
    """Whether a signal has come."""
    return _asked is not None


@contextmanager
def block_signals() -> Iterator[None]:
    """Signals that come inside the block arrive at its end; processes started in it hear none before they
    `ignore` them, which drops what has come. For those that work for one that listens, such as loaders: a
    signal sent to all must not end them in the middle of its step. They end with it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Hear no signals from here on, nor those that are being `held`."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
