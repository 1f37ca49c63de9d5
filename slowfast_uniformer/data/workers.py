"""DataLoader workers that die or hang: which video each was reading, and errors that say so."""

import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from slowfast_uniformer.errors import UserError

_MAX_PATH = 1000  # bytes kept of a path


class CurrentFiles:
    """The path that each DataLoader worker is reading, in memory shared with the main process."""

    def __init__(self, workers: int):
        self._paths = [multiprocessing.Array("c", _MAX_PATH, lock=False) for _ in range(max(workers, 1))]

    def set(self, path: str) -> None:
        """Note the path that the calling worker (or the main process, without workers) begins to read."""
        info = get_worker_info()
        self._paths[info.id if info else 0].value = os.fsencode(path)[:_MAX_PATH]

    def paths(self) -> list[str]:
        """The last path of each worker that has read one."""
        return [os.fsdecode(path.value) for path in self._paths if path.value]


def kill_workers(batches: Iterable | None) -> None:
    """Kill the workers behind a DataLoader's iterator, and no other process. They ignore other signals."""
    if getattr(batches, "_worker_pids_set", False):
        # PyTorch would report their end by an exception, wherever the program is by then.
        signal_handling._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    for worker in getattr(batches, "_workers", ()):
        worker.kill()


def worker_errors_explained(loader: DataLoader, cfg: CfgNode) -> Iterator[Any]:
    """The loader's batches; PyTorch's errors about dead or late workers become UserErrors with a remedy.

    Args:
        loader: A loader whose data set has `current_files`.
        cfg: The config, for its DATA_LOADER keys.
    """
    batches = loader._iterator  # of an earlier epoch, if workers are persistent
    try:
        batches = iter(loader)
        yield from batches
    except RuntimeError as error:
        text = " ".join(f"{error} {error.__cause__ or ''}".split())  # the cause names the signal
        if not re.search(r"DataLoader (worker|timed out)|shared memory|bus error", text, re.IGNORECASE):
            raise
        kill_workers(batches)
        raise UserError(_explain(text, loader, cfg)) from error


def _explain(text: str, loader: DataLoader, cfg: CfgNode) -> str:
    reading = ", ".join(loader.dataset.current_files.paths()) or "nothing"
    if "timed out" in text:
        return (
            f"no batch within DATA_LOADER.TIMEOUT, {cfg.DATA_LOADER.TIMEOUT} s; the DataLoader workers were "
            f"last reading {reading}. Check that storage, remove the file from the list, or raise the key"
        )
    if re.search("bus error|shared memory", text, re.IGNORECASE):
        return (
            f"a DataLoader worker found no room in shared memory (/dev/shm): {text}. Give it "
            "more (docker: --shm-size 16g, or --ipc host), or lower DATA_LOADER.NUM_WORKERS"
        )
    return (
        f"a DataLoader worker ended ({text}); the workers were last reading {reading}. If the system killed it "
        "for memory, lower DATA_LOADER.NUM_WORKERS; if a file did, DATA_LOADER.NUM_WORKERS 0 shows where"
    )
