"""Finding files and writing them: ~ and $VARIABLES, addresses (iopath's path manager), atomic replacement."""

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from iopath.common.file_io import HTTPURLHandler, PathManager, g_pathmgr

from slowfast_uniformer.errors import UserError


def expand(path: str) -> str:
    """A path with ~, $VARIABLES and, as in shells, ${VARIABLE:-what stands for it if unset} replaced."""
    path = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: os.environ.get(match[1]) or match[2], path)
    return os.path.expanduser(os.path.expandvars(path))


@functools.cache
def _manager() -> PathManager:
    with suppress(KeyError):  # somebody has registered another one
        g_pathmgr.register_handler(HTTPURLHandler())
    return g_pathmgr


def fetch(path: str) -> str:
    """The local file behind an address, fetched unless iopath's cache holds a copy already; a local path is
    returned as it is. Raises UserError, naming the address, if it cannot be had.
    """
    if "://" not in path:
        return path
    try:
        local = _manager().get_local_path(path)
    except Exception as error:  # each kind of storage has its own
        raise UserError(
            f"cannot fetch {path} ({type(error).__name__}: {error}); fetch it yourself and name its path"
        ) from error
    if local == path:
        raise UserError(
            f"cannot fetch {path}: iopath's g_pathmgr has no handler for such addresses; register one, or "
            "fetch it yourself and name its path"
        )
    return local


def first_file(paths: list[str]) -> str | None:
    """The first of these that is a file, or None."""
    for path in paths:
        with suppress(UserError):
            if os.path.isfile(fetch(path)):
                return path
    return None


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """A temporary path beside `path` that replaces it when the block ends without an exception.

    The one way in which this program replaces a file: an interrupted or failed write leaves the former file as it
    was and nothing else. The folder is made if it is missing. The name begins with a dot and keeps the ending, by which
    some libraries choose a format.

    Raises:
        OSError: the file cannot be written; callers say which key or argument named it.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{os.getpid()}.{name}")
    os.makedirs(folder or ".", exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


def atomic_write(path: str | os.PathLike, text: str) -> None:
    """Replace a text file (UTF-8) by `text`, all or nothing (see `atomic_path`)."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
