"""Log lines, on standard error and in the run's log.txt, and progress bars."""

import logging
import os
import sys
from collections.abc import Callable, Iterable

from tqdm import tqdm

from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import os_errors_reported

PACKAGE = "slowfast_uniformer"
LOG_HANDLER = __name__  # the name of the handlers that `setup_logging` adds


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)  # above a progress bar, not through it


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk does not end a run; the console has the line."""


class _Line(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return super().formatMessage(record)


def setup_logging(output_dir: str | None = None, rank: int = 0, logger_name: str = PACKAGE) -> Callable[[], None]:
    """Show log lines on standard error, and write them to a file.

    By default only the logger "slowfast_uniformer" gets handlers: the root logger belongs to whoever imports the
    package. Calling again replaces what was set up.

    Args:
        output_dir: the folder of log.txt, or of logs/rank_N.txt for rank N; None writes no file.
        rank: other ranks than 0 show only warnings and errors on standard error.
        logger_name: "" is the root logger, for a command: log.txt then has the lines of other libraries and of the
            user's own models, too.

    Returns:
        A function that leaves logging as it was before (`remove_logging`).

    Raises:
        UserError: the file cannot be written.
    """
    handlers: list[logging.Handler] = [_Console()]
    if output_dir:
        path = os.path.join(output_dir, f"logs/rank_{rank}.txt" if rank else "log.txt")
        with os_errors_reported(f"OUTPUT_DIR: cannot write {path}"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handlers.append(_File(path, encoding="utf-8"))
    remove_logging()
    logger = logging.getLogger(logger_name)
    prefix = f" [rank {rank}]" if rank else ""
    for handler in handlers:
        handler.set_name(LOG_HANDLER)
        handler.setFormatter(_Line(f"[%(asctime)s]{prefix} %(kind)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        handler.setLevel(logging.WARNING if rank and isinstance(handler, _Console) else logging.INFO)
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


def progress(iterable: Iterable, total: int, title: str) -> Iterable:
    """`iterable` with a progress bar on rank 0's terminal; elsewhere as it is."""
    if not topology.is_main() or not sys.stderr.isatty():
        return iterable
    return tqdm(iterable, title, total, leave=False, dynamic_ncols=True)
