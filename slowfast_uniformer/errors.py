"""The exceptions for errors in the user's input."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Invalid input. The message names the file, line or key and the remedy; commands print it without a traceback."""


class LostRankError(UserError):
    """A collective has failed because another rank has ended or hangs. Others may still be pending in threads."""


@contextmanager
def os_errors_reported(what: str) -> Iterator[None]:
    """Turn an OSError of the block into a UserError: `what`, a colon and the system's reason."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {error.strerror or error}") from None
