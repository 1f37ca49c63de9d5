"""What video files and frame folders have in common, and frame folders."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from slowfast_uniformer.errors import UserError

READ_TIMEOUT = 60.0  # seconds, unless DATA.READ_TIMEOUT says otherwise
OpenFile = Callable[[], BinaryIO] | None


class VideoError(UserError):
    """A video that cannot be read; the message names its path and the first cause."""

    def __init__(self, path: str, cause: str | BaseException):
        super().__init__(f"cannot read {path}: {getattr(cause, 'strerror', None) or cause}")


@dataclass(frozen=True)
class VideoInfo:
    """Width and height in pixels as displayed, though pixels that are not square stay so. `rotation`, degrees
    counterclockwise, is already applied to them and to what is read. `fps` is 0 where nothing tells it."""

    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str


class VideoSource(ExitStack):
    """What files and folders have in common; closing it closes what it opened. `_pictures` gives number and
    picture of each wanted frame or raises VideoError, `_rgb` makes a picture an array of a size. Where it is
    not a file of its own, `open_file` opens it, anew at each call, and `path` is but its name."""

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

    def _opened(self) -> str | BinaryIO:
        """The file, or its name as FFmpeg takes it. OSError if there is none."""
        if self._open_file:
            return self._open_file()
        size = os.path.getsize(self.path)
        if not os.path.isfile(self.path):  # a pipe or a device can hang for ever
            raise VideoError(self.path, "not a file, but a folder, pipe or device")
        if size == 0:
            raise VideoError(self.path, "the file is empty")
        return "file:" + self.path  # so a colon in the name does not make it a protocol

    def read(self, indices: ArrayLike, short_side: int | None = None) -> np.ndarray:
        """The frames of these numbers, (N, H, W, 3) RGB uint8.

        Numbers count from 0 in the order of display and come in any order, with repeats. `short_side` scales
        (bilinear) the shorter side to that many pixels and the longer to floor(long / short * short_side). A
        frame of another size than the video's first is scaled to that. Raises VideoError if a frame cannot be
        decoded and ValueError for a number outside [0, frames).
        """
        wanted, where = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.frames:
            raise ValueError(f"{self.path} has {self.frames} frames, no {wanted[0]} to {wanted[-1]}")
        self._start_clock()
        with closing(self._pictures(wanted.tolist())) as pictures:
            first = list(islice(pictures, 1))
            self._learn(*(picture for _, picture in first))
            width, height = self._size(short_side)
            frames = np.empty((len(wanted), height, width, 3), np.uint8)
            for number, picture in chain(first, pictures):
                frames[np.searchsorted(wanted, number)] = self._rgb(picture, width, height)
        return frames if np.array_equal(where, np.arange(len(wanted))) else frames[where]

    def _learn(self, picture: object = None) -> None:
        """May set `info` from a wanted picture."""

    def _size(self, short_side: int | None) -> tuple[int, int]:
        width, height = self.info.width, self.info.height
        if short_side is not None:
            long_side = math.floor(max(width, height) / min(width, height) * short_side)
            width, height = (short_side, long_side) if width < height else (long_side, short_side)
        return width, height

    def survey(self) -> Iterator[tuple[int, int, bool]]:
        """Decode every frame and keep none: width and height as stored, and whether the decoder reports it
        as damaged. Raises VideoError like `read`; a limit of time counts for each frame."""
        self._start_clock()
        with closing(self._pictures(list(range(self.frames)))) as pictures:
            for _, picture in pictures:
                yield picture.width, picture.height, getattr(picture, "is_corrupt", False)
                self._start_clock()


class FrameFolder(VideoSource):
    """A folder of images as a video: number 0 is the image of number 1 in `template`, such as "{:05d}.jpg".
    Raises VideoError naming the first that is missing of the `frames` there should be."""

    def __init__(self, path: str | os.PathLike, template: str, frames: int):
        super().__init__(path)
        self._template = template
        if frames < 1 or not self._has(frames):  # one look-up in good folders, which hold hundreds of files
            first = next((n for n in range(1, frames + 1) if not self._has(n)), 1)
            raise VideoError(self.path, f"{template.format(first)} is missing, and the list says {frames} frames")
        self.frames, self.fps = frames, 0.0
        self.info = VideoInfo(frames, 0.0, *next(self._pictures([0]))[1].size, 0, template.rpartition(".")[2])

    def _has(self, number: int) -> bool:
        return os.path.exists(os.path.join(self.path, self._template.format(number)))

    def _pictures(self, wanted: list[int]) -> Iterator[tuple[int, Image.Image]]:
        for number in wanted:
            name = self._template.format(number + 1)
            try:
                with Image.open(os.path.join(self.path, name)) as image:
                    yield number, image.convert("RGB")
            except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say that a file is damaged
                raise VideoError(self.path, f"{name}: {error}") from error

    def _rgb(self, picture: Image.Image, width: int, height: int) -> np.ndarray:
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
