"""What an error of FFmpeg means for a file, and what to do: its own words name neither."""

import codecs
import errno
import os
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import av
from av.error import tag_to_code

from slowfast_uniformer.data.video import VideoError

AGAIN = "copy or download it again"
ENCRYPTED = "the video stream is encrypted (DRM); this program reads only what is decrypted first"
DAMAGED = "its header is damaged or cut off"
HEADER_LOST = f"not a video, or its header is lost; {AGAIN}"
REENCODE = "re-encode it with a program that plays it (ffmpeg -i IN -c:v libx264 OUT.mp4)"
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".opdownload", ".aria2", ".ytdl", ".!qb", ".tmp")

BOXES = {
    b"ftyp",
    b"styp",
    b"moov",
    b"moof",
    b"sidx",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
}  # with which mp4 and mov files begin
TS_SYNC, TS_SCRAMBLED = 0x47, 0xC0  # first byte of each 188 of an MPEG-TS; bits of the fourth (ISO 13818-1, 2.4.3.2)

# Beginnings of files that are no videos.
CONTENTS = {
    rb"\s*<(!doctype html|html|head|body)\b": f"an HTML page, not a video: the download failed; {AGAIN}",
    rb"\s*<(\?xml|error)\b": f"a text in XML, not a video, such as servers answer with an error; {AGAIN}",
    rb"version https://git-lfs": "a Git LFS pointer, not the video itself; fetch that with `git lfs pull`",
    rb"\S{0,200}/annex/objects/": "a git-annex pointer, not the video itself; fetch that with `git annex get`",
    rb"PK\x03\x04": "a ZIP archive, not a video; unpack it",
    rb"\x1f\x8b|BZh\d|\xfd7zXZ|7z\xbc\xaf|Rar!\x1a|\x28\xb5\x2f\xfd": "a compressed file, not a video; unpack it",
    rb"(?s:.{257})ustar": "a tar archive, not a video; unpack it",
    rb"%PDF-": "a PDF, not a video",
    rb"\x93NUMPY": "a NumPy array, not a video",
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM.{4}\0{4}": f"a damaged picture; {AGAIN}",
    rb"\0+\Z": f"nothing but zeros at its beginning: the download or copy did not finish; {AGAIN}",
}

# FFmpeg's codes for "not yet implemented", for what is not found (decoder, demuxer, filter of packets, protocol), and
# for "experimental".
UNSUPPORTED = {tag_to_code(tag) for tag in (b"PAWE", b"\xf8DEC", b"\xf8DEM", b"\xf8BSF", b"\xf8PRO")}
UNSUPPORTED |= {errno.ENOSYS, errno.EOPNOTSUPP, 0x2BB2AFA8}
OF_THE_SYSTEM = {
    errno.EACCES: "give this user the right to read it (chmod a+r)",
    errno.EMFILE: "raise the limit (ulimit -n) or set fewer DATA_LOADER.NUM_WORKERS",
    errno.EIO: "the disk or mount does not give its bytes",
    errno.ESTALE: "the mount has lost it: mount it again",
}


def explain(
    path: str, error: Exception, open_file: Callable[[], BinaryIO] | None = None, decoded: int | None = None
) -> VideoError:
    """The VideoError for what FFmpeg or the operating system raises.

    FFmpeg also says "Input/output error" or "Operation not permitted" of damaged headers. The file is therefore read
    without it: only where that fails, the file system is to blame, and the VideoError is `transient`.

    Args:
        path: The video.
        error: What was raised.
        open_file: Opens the video if it is not the file `path`.
        decoded: Number of frames decoded before; None while the file is opened.
    """
    found = None
    if isinstance(error, av.FFmpegError):
        try:
            found = content(path, open_file)
            with open_file() if open_file else open(path, "rb") as file:
                while error.errno == errno.EIO and file.read(2**20):
                    pass
        except OSError as system:
            error = system
    said = getattr(error, "strerror", None) or str(error)
    if not isinstance(error, av.FFmpegError):
        remedy = OF_THE_SYSTEM.get(error.errno) if isinstance(error, OSError) else None
        # Without a number it is this program's own, of a tar file that lacks the video.
        transient = not isinstance(error, OSError) or error.errno is not None
        return VideoError(path, f"{said}; {remedy}" if remedy else said, transient=transient)
    if found:
        return VideoError(path, found)
    if error.errno == errno.ENOMEM:
        return VideoError(path, f"{said}: the machine's memory is full, or {DAMAGED} asks for too much; {AGAIN}")
    if decoded is None and isinstance(error, av.InvalidDataError):
        return VideoError(path, HEADER_LOST)
    some = {None: DAMAGED, 0: "no frame decodes", 1: "only 1 frame decodes"}
    what = f"{some.get(decoded, f'only {decoded} frames decode')}: {said}"
    if error.errno in UNSUPPORTED:
        return VideoError(path, f"{what}, or this build of FFmpeg cannot read it; {AGAIN}, or {REENCODE}")
    return VideoError(path, f"{what}; {AGAIN}")


def content(path: str, open_file: Callable[[], BinaryIO] | None = None) -> str | None:
    """What a file is that FFmpeg cannot read, if its name or bytes tell. OSError if it cannot be read at all."""
    if path.lower().endswith(UNFINISHED) or os.path.exists(path + ".aria2"):
        return "an unfinished download; finish it, or download it again"
    with open_file() if open_file else open(path, "rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8)
        if head[4:8] in BOXES:
            return _mp4_content(file)
    if any(head[at] == TS_SYNC and head[at + 3] & TS_SCRAMBLED for at in range(0, len(head) - 3, 188)):
        if head[0] == head[188] == TS_SYNC:
            return ENCRYPTED
    for beginning, meaning in CONTENTS.items():
        if re.match(beginning, head, re.IGNORECASE):
            return meaning
    with suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(head).strip()  # leaves out half a character at the end
        if text and all(char.isprintable() or char.isspace() for char in text):
            return f"a text, not a video: {text.splitlines()[0][:60]!r}"
    return None


def _mp4_content(file: BinaryIO) -> str | None:
    """Whether an mp4 or mov is encrypted, or lacks the end with its index."""
    end, at = file.seek(0, os.SEEK_END), 0
    while at < end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if size == 1:
            size = int.from_bytes(file.read(8))
        if kind == b"moof":
            return "a segment of a streamed video, without the first; join them (cat init.mp4 IN > OUT.mp4)"
        if kind == b"meta":  # a picture
            return None
        if kind == b"moov" and at + size <= end:
            moov = file.read(min(size, 2**24))
            return ENCRYPTED if b"encv" in moov or b"drmi" in moov else None
        at += size if size >= 8 else end
    return f"its index (moov box) is missing or incomplete: the recording or copy was cut off; {AGAIN}"
