"""What a run reports: log lines, metrics.jsonl, TensorBoard and a tracker, all from one `Log.write`.

metrics.jsonl in OUTPUT_DIR is the record: one JSON object a line with `step`, `split` (a key of `SECTIONS`)
and figures; a figure that is not finite is null there. The others mirror it.
"""

import logging
import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import UserError

logger = logging.getLogger(__name__)


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)  # above a progress bar, not through it


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk is no reason to end a run; the console has the line."""


class _Line(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return super().formatMessage(record)


def setup_logging(output_dir: str | None = None, rank: int = 0) -> None:
    """Send log lines to standard error, only warnings and errors if not rank 0, and to `output_dir`/log.txt,
    or logs/rank_N.txt for rank N.

    Calling again replaces what was set up. Raises UserError when log.txt cannot be written.
    """
    handlers: list[logging.Handler] = [_Console()]
    if output_dir:
        path = os.path.join(output_dir, f"logs/rank_{rank}.txt" if rank else "log.txt")
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handlers.append(_File(path, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"OUTPUT_DIR: cannot write {path}: {error.strerror}") from None
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if handler.name == __name__]:
        root.removeHandler(old)
        old.close()
    who = f" [rank {rank}]" if rank else ""
    for handler in handlers:
        handler.set_name(__name__)
        handler.setFormatter(_Line(f"[%(asctime)s]{who} %(kind)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        handler.setLevel(logging.WARNING if rank and isinstance(handler, _Console) else logging.INFO)
        root.addHandler(handler)
    root.setLevel(logging.INFO)


def progress(iterable: Iterable, total: int, title: str) -> Iterable:
    """`iterable` behind a progress bar where rank 0 has a terminal; else as it is."""
    if not topology.is_main() or not sys.stderr.isatty():
        return iterable
    return tqdm(iterable, title, total, leave=False, dynamic_ncols=True)
