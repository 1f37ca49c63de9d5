"""What goes wrong while data is read: videos that cannot be, and loading processes that die or hang."""

import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, get_worker_info

from slowfast_uniformer.errors import UserError

_LENGTH = 1000  # bytes kept of the path that a process has in hand


class BadFiles:
    """The videos that could not be read, with causes, in OUTPUT_DIR/bad_files.txt ("path<TAB>cause" a line;
    tools/check_dataset.py writes it too). With `listed`, paths, those of a list alone.

    Training passes over them from then on, in this run and when it is continued; remove a line, or the file,
    to have them tried again.
    """

    def __init__(self, output_dir: str, listed: Iterable[str] | None = None):
        self.path = os.path.join(output_dir, "bad_files.txt")
        self.listed = None if listed is None else set(listed)
        self.causes: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in what this and other processes have written."""
        if os.path.isfile(self.path):
            with open(self.path, encoding="utf-8") as file:
                pairs = (line.rstrip("\n").partition("\t") for line in file if line.strip())
                of_list = (pair for pair in pairs if self.listed is None or pair[0] in self.listed)
                self.causes |= {path: cause for path, _, cause in of_list}

    def add(self, path: str, cause: str) -> bool:
        """Note a video; returns whether it is a new one."""
        if path in self.causes:
            return False
        self.causes[path] = cause
        with open(self.path, "a", encoding="utf-8") as file:  # one write, so that ranks' lines do not mix
            file.write(f"{path}\t{' '.join(cause.split())}\n")
        return True

    def check(self, fraction: float) -> None:
        """Stop a run in which more than this fraction of the listed videos cannot be read."""
        videos = len(self.listed or ())
        if len(self.causes) > fraction * videos:
            some = "\n  ".join(list(self.causes.values())[:10])
            raise UserError(
                f"{len(self.causes)} of {videos} videos cannot be read, more than DATA.MAX_BAD_FRACTION "
                f"{fraction:g} allows. All are in {self.path}, the first:\n  {some}\n"
                "Check DATA.PATH_PREFIX and the files, or raise DATA.MAX_BAD_FRACTION"
            )


class InHand:
    """The path that each loading process is reading, seen by the process that waits for it."""

    def __init__(self, workers: int):
        self._paths = [multiprocessing.Array("c", _LENGTH, lock=False) for _ in range(max(workers, 1))]

    def set(self, path: str) -> None:
        info = get_worker_info()
        self._paths[info.id if info else 0].value = os.fsencode(path)[:_LENGTH]

    def paths(self) -> list[str]:
        return [os.fsdecode(path.value) for path in self._paths if path.value]


def guarded(loader: DataLoader, cfg: CfgNode) -> Iterator[Any]:
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
