"""Signals that ask a run to stop: it finishes its step, writes a checkpoint and exits with `EXIT_CODE`.

SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (SLURM's warning before the time limit) request a stop. A second signal ends
the process at once; a process that has spawned ranks only forwards signals to them.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from slowfast_uniformer.distributed import topology

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h, "try again later": a launcher may take it as "start this run again"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_REPEAT = 1.0  # seconds; a launcher forwards what the terminal has sent to all processes already: that is one signal

_first_signal: float | None = None  # when it arrived


class Interrupted(Exception):
    """A signal has requested a stop. `engine.train.train` writes a checkpoint before it passes this on.

    Attributes:
        remedy: how the work is continued.
    """

    remedy = "run the same command again to continue"


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _first_signal
    if _first_signal is None:
        _first_signal = time.monotonic()
    elif time.monotonic() - _first_signal > _REPEAT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextmanager
def handle_signals(handler: Callable = _on_signal) -> Iterator[None]:
    """Handle `SIGNALS` inside the block (in the main thread, the only one that can); the default remembers them.

    The former handlers come back at the end. A block inside another one also knows of the signals before it. One
    exception: where a launcher started this process, SIGTERM is ignored after an `Interrupted`. `srun` sends it to the
    other tasks when the first has exited, and it must not replace their exit code.
    """
    global _first_signal
    in_main_thread = threading.current_thread() is threading.main_thread()
    inner = in_main_thread and signal.getsignal(signal.SIGTERM) is _on_signal
    _first_signal = _first_signal if inner else None
    previous = {number: signal.signal(number, handler) for number in SIGNALS} if in_main_thread else {}
    try:
        yield
    except Interrupted:
        if previous and topology.has_launcher():
            previous[signal.SIGTERM] = signal.SIG_IGN
        raise
    finally:
        for number, former in previous.items():
            if former is not None:  # None was not installed by Python code and cannot be put back
                signal.signal(number, former)
        _first_signal = _first_signal if inner else None


def stop_requested() -> bool:
    """Whether a signal has arrived."""
    return _first_signal is not None


def raise_if_any(requests: Iterable[bool]) -> None:
    """Raise Interrupted if a stop is requested on any rank, given what all of them say (see `stop_requested`)."""
    if any(requests):
        raise Interrupted("a signal has requested a stop")


@contextmanager
def block_signals() -> Iterator[None]:
    """Delay signals that arrive inside the block to its end, and start processes that have them blocked.

    For DataLoader workers: a signal that is sent to all processes must not end them in the middle of the step of the
    process they work for. They call `ignore_signals`, and end with that process.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def ignore_signals(_worker: int = 0) -> None:
    """Ignore `SIGNALS` from here on, also those that `block_signals` has delayed; a DataLoader's worker_init_fn."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
