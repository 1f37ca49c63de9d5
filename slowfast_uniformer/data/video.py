"""Base class of all sources of frames (`VideoSource`), and folders of numbered images (`FrameFolder`)."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from slowfast_uniformer.errors import UserError

READ_TIMEOUT = 60.0  # seconds, unless DATA.READ_TIMEOUT says otherwise
OpenFile = Callable[[], BinaryIO] | None


class VideoError(UserError):
    """A video cannot be read; the message names its path and the first cause."""

    def __init__(self, path: str, cause: str | BaseException):
        super().__init__(f"cannot read {path}: {getattr(cause, 'strerror', None) or cause}")


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
        frames: Number of frames.
        fps: Average frame rate in frames per second; 0 if unknown (frame folders).
        width: Width in pixels after rotation; non-square pixels are not stretched.
        height: Height in pixels after rotation.
        rotation: Rotation already applied to size and frames, in degrees counterclockwise (0, 90, 180 or 270).
        codec: FFmpeg's name of the codec, or the ending of a frame folder's images.
    """

    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str


class VideoSource(ExitStack):
    """A video whose frames are read by number; a context manager that closes what it opened.

    Subclasses set `frames`, `fps` and `info`, and implement `_decode`, which yields number and frame of each
    wanted frame or raises VideoError, and `_to_rgb`, which makes an RGB array of a given size from a frame.

    Args:
        path: The video's path, or its name in messages if `open_file` is given.
        open_file: Opens a video that is not a file of its own (a tar member); called anew for each decoder.
        timeout: Seconds that opening and each `read` may take; 0 for no limit.
    """

    frames: int
    fps: float
    info: VideoInfo

    def __init__(self, path: str | os.PathLike, open_file: OpenFile = None, timeout: float = 0.0):
        super().__init__()
        self.path = os.fspath(path)
        self._open_file = open_file
        self._timeout = timeout or math.inf
        self._start_clock()

    def _start_clock(self) -> None:
        self._deadline = time.monotonic() + self._timeout

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise VideoError(self.path, f"not read within {self._timeout:g} s (DATA.READ_TIMEOUT)")

    def _in_time(self, items: Iterable) -> Iterator:
        for item in items:
            self._check_time()
            yield item

    def _file(self) -> str | BinaryIO:
        """The opened file, or its name as FFmpeg takes it. OSError if there is none."""
        if self._open_file:
            return self._open_file()
        size = os.path.getsize(self.path)
        if not os.path.isfile(self.path):  # opening a pipe or a device can block for ever
            raise VideoError(self.path, "not a file, but a folder, pipe or device")
        if size == 0:
            raise VideoError(self.path, "the file is empty")
        return "file:" + self.path  # so that a colon in the name does not make it a protocol

    def read(self, indices: ArrayLike, short_side: int | None = None) -> np.ndarray:
        """Read frames by number.

        Args:
            indices: Frame numbers from 0 in display order, in any order and with repeats.
            short_side: Length in pixels that the shorter side is scaled to (bilinear); the longer side becomes
                floor(long / short * short_side). None for the video's own size.

        Returns:
            Frames (N, H, W, 3), uint8 RGB. A frame of another size than the first is scaled to the first's.

        Raises:
            VideoError: A frame cannot be decoded, or the timeout has passed.
            ValueError: A number is outside [0, frames).
        """
        wanted, where = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.frames:
            raise ValueError(f"{self.path} has {self.frames} frames, no {wanted[0]} to {wanted[-1]}")
        self._start_clock()
        with closing(self._decode(wanted.tolist())) as decoded:
            first = list(islice(decoded, 1))
            self._note_info(*(frame for _, frame in first))
            width, height = self.info.width, self.info.height
            if short_side is not None:
                long_side = math.floor(max(width, height) / min(width, height) * short_side)
                width, height = (short_side, long_side) if width < height else (long_side, short_side)
            frames = np.empty((len(wanted), height, width, 3), np.uint8)
            for number, frame in chain(first, decoded):
                frames[np.searchsorted(wanted, number)] = self._to_rgb(frame, width, height)
        return frames if np.array_equal(where, np.arange(len(wanted))) else frames[where]

    def _note_info(self, frame: Any = None) -> None:
        """May set `info` from a wanted frame."""

    def decode_all(self) -> Iterator[tuple[int, int, bool]]:
        """Decode every frame without keeping any, as a check; the timeout holds for each frame.

        Yields:
            Stored width, stored height, and whether the decoder reports the frame as damaged.

        Raises:
            VideoError: As `read` does.
        """
        self._start_clock()
        with closing(self._decode(list(range(self.frames)))) as decoded:
            for _, frame in decoded:
                yield frame.width, frame.height, getattr(frame, "is_corrupt", False)
                self._start_clock()


class FrameFolder(VideoSource):
    """A folder of images as a video: frame 0 is the image that `template` names for number 1.

    Args:
        path: The folder.
        template: File name of an image by its number, such as "{:05d}.jpg" (DATA.IMAGE_TEMPLATE).
        frames: Number of images that the list says the folder has.

    Raises:
        VideoError: An image is missing; the message names the first.
    """

    def __init__(self, path: str | os.PathLike, template: str, frames: int):
        super().__init__(path)
        self._template = template
        if frames < 1 or not self._has(frames):  # a single lookup in complete folders, which hold hundreds of files
            first = next((n for n in range(1, frames + 1) if not self._has(n)), 1)
            raise VideoError(self.path, f"{template.format(first)} is missing, and the list says {frames} frames")
        self.frames, self.fps = frames, 0.0
        self.info = VideoInfo(frames, 0.0, *next(self._decode([0]))[1].size, 0, template.rpartition(".")[2])

    def _has(self, number: int) -> bool:
        return os.path.exists(os.path.join(self.path, self._template.format(number)))

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, Image.Image]]:
        for number in wanted:
            name = self._template.format(number + 1)
            try:
                with Image.open(os.path.join(self.path, name)) as image:
                    yield number, image.convert("RGB")
            except (OSError, SyntaxError, ValueError) as error:  # Pillow's errors for damaged files
                raise VideoError(self.path, f"{name}: {error}") from error

    def _to_rgb(self, frame: Image.Image, width: int, height: int) -> np.ndarray:
        return np.asarray(frame.resize((width, height), Image.Resampling.BILINEAR))
