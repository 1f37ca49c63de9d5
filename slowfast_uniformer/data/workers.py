"""DataLoader workers that die or hang: which file each was reading, and errors that say so."""

import multiprocessing
import os
import re
from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, get_worker_info

from slowfast_uniformer.errors import UserError

_MAX_PATH = 1000  # bytes kept of the path that a process has in hand


class CurrentFiles:
    """The path that each loading process is reading, seen by the process that waits for it."""

    def __init__(self, workers: int):
        self._paths = [multiprocessing.Array("c", _MAX_PATH, lock=False) for _ in range(max(workers, 1))]

    def set(self, path: str) -> None:
        info = get_worker_info()
        self._paths[info.id if info else 0].value = os.fsencode(path)[:_MAX_PATH]

    def paths(self) -> list[str]:
        return [os.fsdecode(path.value) for path in self._paths if path.value]


def worker_errors_explained(loader: DataLoader, cfg: CfgNode) -> Iterator[Any]:
    """The loader's batches; what PyTorch says of dead or late loading processes becomes a UserError."""
    try:
        yield from loader
    except RuntimeError as error:
        text = " ".join(f"{error} {error.__cause__ or ''}".split())  # the cause tells the signal
        if not re.search(r"DataLoader (worker|timed out)|shared memory|bus error", text, re.IGNORECASE):
            raise
        for process in multiprocessing.active_children():  # they hear no other signal
            process.kill()
        raise UserError(_explain(text, loader, cfg)) from error


def _explain(text: str, loader: DataLoader, cfg: CfgNode) -> str:
    reading = ", ".join(loader.dataset.in_hand.paths()) or "nothing"
    if "timed out" in text:
        return (
            f"no batch within DATA_LOADER.TIMEOUT, {cfg.DATA_LOADER.TIMEOUT} s; the loading processes were "
            f"last reading {reading}. Check that storage, take the file from the list, or raise the key"
        )
    if re.search("bus error|shared memory", text, re.IGNORECASE):
        return (
            f"a loading process found no room in shared memory (/dev/shm): {text}. Give it "
            "more (docker: --shm-size 16g, or --ipc host), or lower DATA_LOADER.NUM_WORKERS"
        )
    return (
        f"a loading process ended ({text}); they were last reading {reading}. If the system killed it "
        "for memory, lower DATA_LOADER.NUM_WORKERS; if a file did, DATA_LOADER.NUM_WORKERS 0 shows where"
    )
