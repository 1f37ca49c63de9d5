"""Where files are: local paths with ~ and $VARIABLES, and the addresses that iopath's path manager knows
(http:// and whatever you register with `iopath.common.file_io.g_pathmgr`)."""

import functools
import os
import re
from contextlib import suppress

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
