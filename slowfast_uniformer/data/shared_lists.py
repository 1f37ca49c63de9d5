"""Long lists of a run with several ranks on a machine: one rank reads a list, the others map what it has read.

The arrays are in a file of a folder of temporary files that only the user can reach. The process that wrote it removes
it at its end, or the next run that shares lists. A machine where all this is not possible loses nothing: every rank
reads the list then. Lists are not shared with other runs: how some are read depends on the videos that are there.
"""

import atexit
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.paths import atomic_path

MIN_BYTES = 4 * 2**20  # of a list; a shorter one is read before others could be waited for


def shared(key: tuple, root: str, read: Callable[[], SampleList]) -> SampleList:
    """The list that `read` returns, read once for all ranks of this machine.

    Args:
        key: All that the list's content depends on, with versions of files.
        root: DATA.PATH_PREFIX.
        read: Reads the list.

    Raises:
        UserError: As `read` does.
    """
    samples = None
    with suppress(OSError):  # no such place, no locks there, no space left
        folder = _own_folder()
        digest = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        path = folder / f"{_process(os.getppid() if topology.has_launcher() else os.getpid())}.{digest}"
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                samples = read()
                _remove_those_of_ended_runs(folder)
                atexit.register(path.unlink, missing_ok=True)
                with atomic_path(path) as temporary:
                    samples.save(temporary)
            return SampleList.map_file(path, root)
    return samples or read()


def _own_folder() -> Path:
    """The folder, created if need be. OSError if others can reach it."""
    folder = Path(tempfile.gettempdir(), f"slowfast_uniformer_lists_{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def _process(number: int) -> str:
    """A process by its number and the time of its start: containers give the same numbers again and again."""
    return f"{number}.{Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]}"


def _remove_those_of_ended_runs(folder: Path) -> None:
    for file in folder.iterdir():
        number, process = file.name.partition(".")[0], file.name.rpartition(".")[0]
        with suppress(FileNotFoundError):
            if file.name == "lock" or (number.isdecimal() and _process(int(number)) == process):
                continue
        file.unlink()
