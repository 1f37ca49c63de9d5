"""Paths and URLs of files: expansion of ~ and $VARIABLES, download through iopath, atomic writes."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from slowfast_uniformer.errors import UserError


def expand(path: str) -> str:
    """Return a path with ~, $VARIABLE and, as in shells, ${VARIABLE:-default} replaced."""
    path = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: os.environ.get(match[1]) or match[2], path)
    return os.path.expanduser(os.path.expandvars(path))


def fetch(path: str) -> str:
    """Return a local path: of a URL the file that iopath downloads, unless it is in its cache; others unchanged.

    Raises:
        UserError: the URL cannot be downloaded.
    """
    if "://" not in path:
        return path
    from iopath.common.file_io import HTTPURLHandler, g_pathmgr  # slow, and only needed for URLs

    remedy = "fetch it yourself and give the file's path"
    with suppress(KeyError):  # a handler is registered already
        g_pathmgr.register_handler(HTTPURLHandler())
    try:
        local = g_pathmgr.get_local_path(path)
    except Exception as error:  # each handler has its own exceptions
        raise UserError(f"cannot fetch {path} ({type(error).__name__}: {error}); {remedy}") from error
    if local == path:
        cause = "iopath's g_pathmgr has no handler for such URLs"
        raise UserError(f"cannot fetch {path}: {cause}; register one, or {remedy}")
    return local


def first_file(paths: list[str]) -> str | None:
    """Return the first of these paths or URLs that is a file, or None."""
    for path in paths:
        with suppress(UserError):
            if os.path.isfile(fetch(path)):
                return path
    return None


@contextmanager
def atomic_path(path: str | os.PathLike, durable: bool = False) -> Iterator[str]:
    """Yield a temporary path that replaces `path` when the block ends without an exception.

    The only way in which this program replaces a file: a write that is interrupted or fails leaves the former file
    as it was, and no temporary one. The folder is created if it is missing. The temporary name starts with a dot and
    keeps the extension, from which some libraries choose a format.

    Args:
        path: the file to write.
        durable: flush file and folder to disk (fsync), so that after a power failure `path` is either the former file
            or the complete new one.

    Raises:
        OSError: the file cannot be written; callers name the key or argument.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{os.getpid()}.{name}")
    os.makedirs(folder or ".", exist_ok=True)
    try:
        yield temporary
        if durable:
            flush_to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            flush_to_disk(folder or ".")
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


def flush_to_disk(path: str) -> None:
    """Flush a file's content or a folder's entries to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: str | os.PathLike, text: str, durable: bool = False) -> None:
    """Write a text file (UTF-8) atomically (see `atomic_path`)."""
    with atomic_path(path, durable) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
