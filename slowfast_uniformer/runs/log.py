"""Log lines, on standard error and in the run's log.txt, and the progress of phases that may take minutes."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from slowfast_uniformer import terminal
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import os_errors_reported
from slowfast_uniformer.wording import counted

PACKAGE = "slowfast_uniformer"
LOG_HANDLER = __name__  # the name of the handlers that `setup_logging` adds
EPOCH_LINE = "epoch_line"  # attribute of a log record: what SHOWN "epochs" shows of it
SHOWN = ("all", "epochs", "warnings")  # of the log, by the program; log.txt always has all of it
FIRST_SECONDS, LINE_SECONDS = 10.0, 60.0  # before the first line of a phase, and between its lines
logger = logging.getLogger(__name__)


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr:
            from tqdm import tqdm  # slow, for commands that need neither log nor bar

            with suppress(OSError, ValueError):  # a terminal that was closed does not end a run; log.txt has the line
                tqdm.write(self.format(record), file=sys.stderr)  # above a progress bar, not through it


class _Epochs(logging.Handler):
    """The lines of epochs alone, on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        if line := getattr(record, EPOCH_LINE, ""):
            terminal.show(line)


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk does not end a run; the console has the line."""


class _Line(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return super().formatMessage(record)


def setup_logging(
    output_dir: str | None = None, rank: int = 0, logger_name: str = PACKAGE, shown: str = "all"
) -> Callable[[], None]:
    """Show log lines on standard error, and write them to a file.

    By default only the logger "slowfast_uniformer" gets handlers: the root logger belongs to whoever imports the
    package. Calling again replaces what was set up.

    Args:
        output_dir: the folder of log.txt, or of logs/rank_N.txt for rank N; None writes no file.
        rank: other ranks than 0 show only warnings and errors on standard error.
        logger_name: "" is the root logger, for a command: log.txt then has the lines of other libraries and of the
            user's own models, too.
        shown: one of `SHOWN`: all lines on standard error; warnings there, and a short line for each epoch on standard
            output; or warnings alone.

    Returns:
        A function that leaves logging as it was before (`remove_logging`).

    Raises:
        UserError: the file cannot be written.
    """
    handlers: list[logging.Handler] = [_Console(), _Epochs()] if shown == "epochs" and not rank else [_Console()]
    if output_dir:
        path = os.path.join(output_dir, f"logs/rank_{rank}.txt" if rank else "log.txt")
        with os_errors_reported(f"OUTPUT_DIR: cannot write {path}"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handlers.append(_File(path, encoding="utf-8", errors="backslashreplace"))
    remove_logging()
    logger = logging.getLogger(logger_name)
    prefix = f" [rank {rank}]" if rank else ""
    for handler in handlers:
        handler.set_name(LOG_HANDLER)
        handler.setFormatter(_Line(f"[%(asctime)s]{prefix} %(kind)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        quiet = isinstance(handler, _Console) and (rank or shown != "all")
        handler.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return remove_logging


def remove_logging() -> None:
    """Remove what `setup_logging` has added."""
    for logger, level in ((logging.getLogger(PACKAGE), logging.NOTSET), (logging.getLogger(), logging.WARNING)):
        for handler in [handler for handler in logger.handlers if handler.name == LOG_HANDLER]:
            logger.removeHandler(handler)
            handler.close()
            logger.setLevel(level)


# ----------------------------------------------------------------------------------------------- progress
class Phase:
    """A phase that may take minutes, as a context. Rank 0 shows how much is done and how much time is left.

    On a terminal that is a progress bar, elsewhere a line after ten seconds and then each minute. A thread writes the
    lines: the first batch or a large file may take longer than that by itself.

    Args:
        title: what is done, such as "fit the classifier".
        total: how much there is to do; 0 if that is not counted.
        unit: what is counted, such as "clip".
        done: how much an earlier process has done.
        bar: False for lines on a terminal, too, where something else is printed there.
        clock: the time in seconds.
    """

    def __init__(
        self,
        title: str,
        total: int = 0,
        unit: str = "",
        done: int = 0,
        bar: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.title, self.total, self.unit, self.done, self.before = title, total, unit, done, done
        self._clock, self._start = clock, clock()
        self._has_bar = bar and total > 0 and is_terminal()
        self._bar: Any = None
        self._ended = threading.Event()
        self._due = self._start + FIRST_SECONDS

    def __enter__(self) -> "Phase":
        if topology.is_main() and self._has_bar:
            from tqdm import tqdm

            with suppress(OSError):
                options = {"initial": self.before, "leave": False, "dynamic_ncols": True}
                self._bar = tqdm(desc=self.title, total=self.total, **options)
        elif topology.is_main():
            threading.Thread(target=self._write_lines, name=self.title, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._on_bar("close")

    def advance(self, count: int = 1) -> None:
        """Note that `count` more are done."""
        before, self.done = self.done, min(self.done + count, self.total)
        self._on_bar("update", self.done - before)

    def line_written(self) -> None:
        """Note that another line says now how far the phase is; the next one of its own is a minute away."""
        self._due = self._clock() + LINE_SECONDS

    def write_if_due(self) -> None:
        """Write a line if the phase is ten seconds old, or its last line a minute."""
        if self._clock() >= self._due:
            self.line_written()
            write_line(self.line())

    def line(self) -> str:
        """The title, what is done, and the time left; or the time so far, where nothing tells that."""
        spent = self._clock() - self._start
        if not self.total:
            return f"{self.title}: {readable_time(spent)} so far"
        count = f"{self.title}: {self.done:,} of {counted(self.total, self.unit)}"
        if self.done == self.before:
            return f"{count} after {readable_time(spent)}"
        left = spent / (self.done - self.before) * (self.total - self.done)
        return f"{count}, {readable_time(left)} left"

    def _write_lines(self) -> None:
        while not self._ended.wait(max(self._due - self._clock(), 0.01)):
            self.write_if_due()

    def _on_bar(self, method: str, *arguments: int) -> None:
        try:
            if self._bar is not None:
                getattr(self._bar, method)(*arguments)
        except (OSError, ValueError):  # the terminal was closed
            self._bar = None


def progress(iterable: Iterable, total: int, title: str, unit: str, bar: bool = True) -> Iterator:
    """Yield the items of `iterable` in a `Phase` of `total` of them."""
    with Phase(title, total, unit, bar=bar) as phase:
        for item in iterable:
            yield item
            phase.advance()


def readable_time(seconds: float) -> str:
    """Such as "20 s", "3 min" or "2 h 5 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def is_terminal() -> bool:
    """Whether standard error is a terminal; it may be closed."""
    with suppress(AttributeError, ValueError):
        return sys.stderr.isatty()
    return False


def write_line(line: str) -> None:
    """Write a line to the log or, in a command that keeps none, to standard error."""
    if logger.hasHandlers():
        logger.info("%s", line)
    else:
        terminal.show(line, error=True)
