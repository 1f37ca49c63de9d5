"""Paths and URLs of files: expansion of ~ and $VARIABLES, download through iopath, atomic writes."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from slowfast_uniformer.errors import UserError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})")


def expand(path: str) -> str:
    """Return a path with ~, ~user, $NAME, ${NAME} and, as in shells, ${NAME:-default} replaced.

    In an address (s3://...) only variables are replaced, and one that is not set is taken for a part of the address.

    Raises:
        UserError: a user is not known, or a variable not set, unless there is a file or folder with a $ in its name.
    """
    full = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: os.environ.get(match[1]) or match[2], path)
    unset = [name for name in map("".join, _VARIABLE.findall(full)) if name not in os.environ]
    full = os.path.expandvars(full)
    if re.match(r"[A-Za-z][\w+.-]+://", full):
        return full
    full = os.path.expanduser(full)
    if full.startswith("~"):
        user = full.split("/")[0]
        raise UserError(
            f"{path}: no user {user} on this machine; write the path out (./{user} for a folder of that name)"
        )
    if unset and not os.path.lexists(full):
        raise UserError(f"{path}: the environment variable {unset[0]} is not set; set it, or write the path out")
    return full


def is_utf_8(path: str) -> bool:
    """Whether a path is UTF-8; the bytes of another are surrogates in `path`."""
    return not re.search("[\ud800-\udfff]", path)


def fetch(path: str) -> str:
    """Return a local path: of a URL the file that iopath downloads, unless it is in its cache; others unchanged.

    Raises:
        UserError: the URL cannot be downloaded.
    """
    if "://" not in path:
        return path
    from iopath.common.file_io import HTTPURLHandler, g_pathmgr  # slow, and only needed for URLs

    remedy = "download it yourself and give the file's path"
    with suppress(KeyError):  # a handler is registered already
        g_pathmgr.register_handler(HTTPURLHandler())
    try:
        local = g_pathmgr.get_local_path(path)
    except Exception as error:  # each handler has its own exceptions
        raise UserError(f"cannot download {path} ({type(error).__name__}: {error}); {remedy}") from error
    if local == path:
        cause = "iopath's g_pathmgr has no handler for this kind of URL"
        raise UserError(f"cannot download {path}: {cause}; register one, or {remedy}")
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
    """Write a text file atomically (see `atomic_path`): UTF-8, with escapes for bytes of file names that are not."""
    with atomic_path(path, durable) as temporary:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)


def numbered_name(template: str, number: int) -> str:
    """The file name of a number by a template of Python's style ("img_{:05d}.jpg") or of C's ("img_%05d.jpg").

    Raises:
        ValueError: the template is none, or has no place for a number.
    """
    try:
        name = template.format(number) if "{" in template else template % number
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{template!r}: {error}") from None
    if str(number) not in name:
        raise ValueError(f"{template!r} has no place for a number")
    return name
