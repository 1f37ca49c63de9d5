"""Videos inside tar files, read in place: a path may lead through a tar, `shards/000.tar/clip.mp4`.

`tools/make_lists.py` appends where in the tar the video is, `000.tar/clip.mp4@1536+20480` (first byte and
number of bytes), so that nothing but the video is read. Without that the tar is looked through, and what it
holds is remembered for the last few of them.
"""

import functools
import io
import os
import re
import tarfile
from collections.abc import Callable

_PATH = re.compile(r"(?P<tar>.+?\.tar)/(?P<member>.+?)(@(?P<start>\d+)\+(?P<size>\d+))?")


class ByteRange(io.RawIOBase):
    """`size` bytes of a file from `start`, as a file that can be read and sought in."""

    def __init__(self, path: str, start: int, size: int):
        self._start, self._size, self._at = start, size, 0
        self._file = os.open(path, os.O_RDONLY)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._file, count, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()


@functools.lru_cache(maxsize=8)
def index(path: str) -> dict[str, tuple[int, int]]:
    """First byte and number of bytes of each file in an uncompressed tar. OSError if it cannot be read."""
    try:
        with tarfile.open(path, "r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}
    except tarfile.TarError as error:
        raise OSError(f"{path} is not an uncompressed tar file: {error}") from error


def opener(path: str) -> Callable[[], ByteRange] | None:
    """What opens the video that a path through a tar means (OSError if it cannot); None for other paths."""
    match = _PATH.fullmatch(path)
    if not match or os.path.isdir(match["tar"]):
        return None

    def open_range() -> ByteRange:
        if match["start"]:
            return ByteRange(match["tar"], int(match["start"]), int(match["size"]))
        inside = index(match["tar"])
        if match["member"] not in inside:
            raise OSError(f"{match['tar']} holds no {match['member']}")
        return ByteRange(match["tar"], *inside[match["member"]])

    return open_range
