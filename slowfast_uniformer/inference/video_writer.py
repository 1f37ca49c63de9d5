"""Videos and pictures to be looked at: frames with words on them, written as H.264."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.video import FrameFolder
from slowfast_uniformer.errors import UserError

SHORT_SIDE = 360  # videos made here are at most so high or wide, and at least half of it
TOGETHER = 64  # frames decoded at once


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """The name to write a file under that becomes `path` when all went well; else nothing is left of it.
    UserError if it cannot be written."""
    beside = os.path.join(os.path.dirname(path), f".{os.getpid()}.{os.path.basename(path)}")
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        yield beside
        os.replace(beside, path)
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def checked_output(path: str, endings: Sequence[str]) -> str:
    """The name of a file to be written: UserError unless it has one of the endings, in a folder that can be
    written to, or made."""
    folder = os.path.dirname(path) or "."
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder) or "."
    if os.path.splitext(path)[1].lower() not in endings:
        raise UserError(f"{path}: the name of the file to write ends in {' or '.join(endings)}")
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"{path}: cannot be written; name a file in a folder of yours")
    return path


def short_side(width: int, height: int) -> int:
    """The short side in which a video of this size is shown."""
    return min(max(min(width, height), SHORT_SIDE // 2), SHORT_SIDE)


def frames_of(source: Video | FrameFolder) -> Iterator[np.ndarray]:
    """All frames (H, W, 3) uint8 of an open video, in the size to be shown."""
    size = short_side(source.info.width, source.info.height)
    for start in range(0, source.frames, TOGETHER):
        yield from source.read(range(start, min(start + TOGETHER, source.frames)), size)


def write_video(path: str, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write frames (H, W, 3) uint8, all of one size, as a video that browsers play (H.264 in MP4). UserError
    if it cannot be written; then there is no file."""
    if not path.lower().endswith(".mp4"):
        raise UserError(f"{path}: the name of a video to write ends in .mp4")
    options = {"movflags": "faststart"}
    with replacing(path) as beside, av.open(beside, "w", format="mp4", options=options) as file:
        stream = None
        for frame in frames:
            if stream is None:
                stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width = (side // 2 * 2 for side in frame.shape[:2])
                stream.pix_fmt = "yuv420p"
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
        file.mux(stream.encode() if stream else [])


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def caption(frame: np.ndarray, lines: Sequence[tuple[str, float]]) -> np.ndarray:
    """A frame (H, W, 3) with lines of text at its lower left, each with a bar as long as its number, 0 to 1,
    says."""
    if not lines:
        return frame
    height, width = frame.shape[:2]
    row = max(14, height // 16)
    box = (min(width, 22 * row), row * len(lines) + row // 2)
    picture = Image.fromarray(frame)
    shade = Image.new("RGBA", box, (0, 0, 0, 150))
    draw = ImageDraw.Draw(shade)
    for number, (text, value) in enumerate(lines):
        top = row // 4 + number * row
        draw.rectangle((0, top + 1, int(box[0] * value), top + row - 2), (59, 111, 182, 210))
        words = fitted(f"{text}  {value:.0%}", row * 2 // 3, box[0] - row)
        draw.text((row // 2, top + row // 2), words, "white", font(row * 2 // 3), anchor="lm")
    picture.paste(shade, (0, height - box[1]), shade)
    return np.asarray(picture)


def fitted(text: str, size: int, width: int) -> str:
    """`text`, shortened to `width` pixels by what stands before its last word."""
    if font(size).getlength(text) <= width:
        return text
    words, _, last = text.rpartition("  ")
    while words and font(size).getlength(f"{words}…  {last}") > width:
        words = words[:-1]
    return f"{words}…  {last}"


def file_names(paths: Sequence[str], ending: str) -> list[str]:
    """A file name for each path, from its own, no two alike."""
    names: dict[str, None] = {}
    for path in paths:
        stem = os.path.splitext(os.path.basename(os.path.normpath(path)))[0] or "video"
        stem = stem.lstrip(".-") or "video"
        name, number = f"{stem}{ending}", 1
        while name in names:
            number += 1
            name = f"{stem}_{number}{ending}"
        names[name] = None
    return list(names)


def targets(where: str, paths: Sequence[str], ending: str) -> list[str]:
    """Where to write something of each path: `where` itself for a single one if it has that ending, else
    files in that folder. UserError for a name that is neither, and where a video would be written over."""
    found = os.path.splitext(where)[1].lower()
    if found == ending:
        if len(paths) > 1:
            raise UserError(f"{where}: one file for {len(paths)} videos; name a folder")
        files = [where]
    elif found and not os.path.isdir(where):
        raise UserError(f"{where}: name a file ending in {ending}, or a folder")
    else:
        files = [os.path.join(where, name) for name in file_names(paths, ending)]
    given = {os.path.realpath(path) for path in paths}
    if over := next((file for file in files if os.path.realpath(file) in given), None):
        raise UserError(f"{over}: is one of the videos that were given; name another file or folder")
    return files
