"""Videos inside tar files, read in place: a path may lead into a tar file, `shards/000.tar/clip.mp4`.

`uniformer lists` appends the byte range of the video, `000.tar/clip.mp4@1536+20480` (first byte and number of
bytes), so that nothing but the video is read. Without a range the tar's headers are scanned, and the members of
the last few tars are cached.
"""

import functools
import io
import os
import re
import tarfile
from collections.abc import Callable
from contextlib import suppress

_PATH = re.compile(r"(?P<tar>.+?\.tar)/(?P<member>.+?)(@(?P<start>\d+)\+(?P<size>\d+))?")
_RANGE = re.compile(r"@\d+\+\d+")


class ByteRange(io.FileIO):
    """`size` bytes of a file from byte `start`, as a readable and seekable file of their own."""

    def __init__(self, path: str, start: int, size: int):
        super().__init__(path)
        self._start, self._end = start, start + size
        self.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: super().tell(), os.SEEK_END: self._end}[whence]
        return super().seek(max(self._start, base + offset)) - self._start

    def tell(self) -> int:
        return super().tell() - self._start

    def readinto(self, buffer: memoryview) -> int:
        left = max(0, self._end - super().tell())
        return super().readinto(memoryview(buffer)[:left])

    # FileIO's own methods would read to the end of the file; these go through `readinto`.
    read, readall = io.RawIOBase.read, io.RawIOBase.readall


@functools.lru_cache(maxsize=8)
def index(path: str) -> dict[str, tuple[int, int]]:
    """First byte and number of bytes of each member of an uncompressed tar file.

    Raises:
        OSError: The file cannot be read or is no uncompressed tar file.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}
    except tarfile.TarError as error:
        raise OSError(f"{path} is not an uncompressed tar file: {error}") from error


def opener(path: str) -> Callable[[], ByteRange] | None:
    """A function that opens the tar member that a path names (OSError if it cannot); None for other paths."""
    match = _PATH.fullmatch(path)
    if not match or os.path.isdir(match["tar"]):
        return None

    def open_member() -> ByteRange:
        if match["start"]:
            return ByteRange(match["tar"], int(match["start"]), int(match["size"]))
        members = index(match["tar"])
        if match["member"] not in members:
            raise OSError(f"{match['tar']} holds no {match['member']}")
        return ByteRange(match["tar"], *members[match["member"]])

    return open_member


def file_of(path: str) -> str:
    """The tar file that the path of a member leads into; other paths as they are."""
    match = _PATH.fullmatch(path)
    return match["tar"] if match and not os.path.isdir(match["tar"]) else path


def exists(path: str) -> bool:
    """Whether a path is a file, a folder or a tar member. A byte range is not looked up in the tar's headers."""
    match = _PATH.fullmatch(path)
    if os.path.exists(path) or not match:
        return os.path.exists(path)
    if _RANGE.search(path):  # one that does not end the path is followed by labels
        return bool(match["start"]) and os.path.isfile(match["tar"])
    with suppress(OSError):
        return match["member"] in index(match["tar"])
    return False
