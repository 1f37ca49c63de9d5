"""Base class of all sources of frames (`VideoSource`), and folders of numbered images (`FrameFolder`)."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from slowfast_uniformer.data.folders import Images, find_images
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import numbered_name
from slowfast_uniformer.wording import counted

READ_TIMEOUT = 60.0  # seconds, unless DATA.READ_TIMEOUT says otherwise
FOLDER_FPS = 30.0  # of frame folders and files without time stamps, unless DATA.FOLDER_FPS says otherwise
STEPS = 1000  # packets or frames after which the timeout begins anew: a long video is not a slow one
LONGEST = 20  # timeouts after which a video counts as endless nevertheless
OpenFile = Callable[[], BinaryIO] | None


class VideoError(UserError):
    """A video cannot be read; the message names its path and the first cause.

    Attributes:
        transient: Whether the file system or a time limit is to blame and not the file, which may be readable later.
    """

    transient = False

    def __init__(self, path: str, cause: str | BaseException, transient: bool = False):
        super().__init__(f"cannot read {path}: {getattr(cause, 'strerror', None) or cause}")
        self.transient = self.transient or transient


class VideoTimeout(VideoError):
    """Reading takes longer than DATA.READ_TIMEOUT."""

    transient = True


class SegmentError(VideoError):
    """A list names a segment that a video does not have; the file is fine."""

    transient = True


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
        frames: Number of frames.
        fps: Mean frame rate in frames per second, by the time stamps; 0 if unknown (frame folders).
        width: Width in pixels after rotation; non-square pixels are not stretched.
        height: Height in pixels after rotation.
        rotation: Rotation already applied to size and frames, in degrees counterclockwise (0, 90, 180 or 270).
        codec: FFmpeg's name of the codec, or the ending of a frame folder's images.
        mirrored: Whether the frames are mirrored left to right before the rotation, as the file asks.
    """

    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str
    mirrored: bool = False


class VideoSource(ExitStack):
    """A video whose frames are read by number; a context manager that closes what it opened.

    Subclasses set `frames`, `fps` and `info`, and implement `_decode`, which yields number and frame of each
    wanted frame or raises VideoError, and `_to_rgb`, which makes an RGB array of a given size from a frame.

    Args:
        path: The video's path, or its name in messages if `open_file` is given.
        open_file: Opens a video that is not a file of its own (a tar member); called anew for each decoder.
        timeout: Seconds that opening and each `read` may take for each 1,000 packets or frames, and a twentieth of
            what they may take in all; 0 for no limit.
    """

    frames: int
    fps: float
    info: VideoInfo
    passed_over: str | None = None  # the last error of packets that do not decode and are not among the frames

    def __init__(self, path: str | os.PathLike, open_file: OpenFile = None, timeout: float = 0.0):
        super().__init__()
        self.path = os.fspath(path)
        self._open_file = open_file
        self._timeout = timeout or math.inf
        self._start_clock()

    def _start_clock(self) -> None:
        self._steps, self._deadline = 0, time.monotonic() + self._timeout
        self._last_deadline = self._deadline + (LONGEST - 1) * self._timeout

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise VideoTimeout(self.path, f"not read within {self._timeout:g} s (DATA.READ_TIMEOUT)")

    def _in_time(self, items: Iterable) -> Iterator:
        for item in items:
            if time.monotonic() > self._deadline:
                self._check_time()
            self._steps += 1
            if self._steps % STEPS == 0:
                self._deadline = min(time.monotonic() + self._timeout, self._last_deadline)
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

    def times(self, unknown_fps: float = FOLDER_FPS) -> np.ndarray:
        """When each frame is shown, in seconds from the video's beginning: (frames,) float64, increasing.

        Args:
            unknown_fps: Frames per second of what has neither time stamps nor a frame rate, such as a frame folder.

        Raises:
            VideoError: The video has to be decoded for it, which fails.
        """
        return np.arange(self.frames) / (self.fps or unknown_fps)

    def segment(self, start: float, end: float, unknown_fps: float = FOLDER_FPS) -> range:
        """The frames whose times are in [start, end); where there is none, the frame that is shown at `start`.

        Args:
            start: Seconds from the video's beginning.
            end: Seconds; beyond the end of the video it stands for it.
            unknown_fps: See `times`.

        Raises:
            SegmentError: The segment begins where the video has ended.
            VideoError: As `times` does.
        """
        times = self.times(unknown_fps)
        if start >= (stop := self.duration(times, unknown_fps)):
            raise SegmentError(self.path, f"the segment from {start:g} to {end:g} s is beyond its end at {stop:.6g} s")
        first, last = np.searchsorted(times, (start, end)).tolist()
        if first < last:
            return range(first, last)
        shown = max(first - 1, 0)
        return range(shown, shown + 1)

    def duration(self, times: np.ndarray, unknown_fps: float = FOLDER_FPS) -> float:
        """When the last frame ends, in seconds from the beginning; `times` are those of `times`."""
        return float(times[-1]) + 1 / (self.fps or unknown_fps)

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
            raise ValueError(f"{self.path}: no frames {wanted[0]} to {wanted[-1]} of {counted(self.frames, 'frame')}")
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
    """A folder of numbered images as a video.

    Frame 0 is the image that `template` names for number 1, if there is one and one for the last frame. Otherwise the
    folder is looked through (`folders.find_images`): images can be counted from any number and have other names.

    Args:
        path: The folder.
        template: File name of an image by its number, such as "{:05d}.jpg" (DATA.IMAGE_TEMPLATE).
        frames: Number of images that the list says the folder has; None for all there are.

    Raises:
        VideoError: The folder has no such images, or fewer than `frames`.
    """

    def __init__(self, path: str | os.PathLike, template: str, frames: int | None = None):
        super().__init__(path)
        self._template = template
        self._images: Images | None = None
        if not (frames and self._has(0) and self._has(frames - 1)):  # two lookups: a folder can hold thousands of files
            self._images = self._look(frames)
            frames = frames or self._images.frames
        self.frames, self.fps = frames, 0.0
        codec = self.image_name(0).rpartition(".")[2]
        self.info = VideoInfo(frames, 0.0, *next(self._decode([0]))[1].size, 0, codec)

    def image_name(self, number: int) -> str:
        """The file name of the image of a frame, from 0."""
        return self._images.name(number) if self._images else numbered_name(self._template, number + 1)

    def _has(self, number: int) -> bool:
        return os.path.exists(os.path.join(self.path, self.image_name(number)))

    def _look(self, frames: int | None) -> Images:
        try:
            images = find_images(self.path, self._template)
        except OSError as error:
            raise VideoError(self.path, error, transient=True) from error
        except ValueError as error:
            raise VideoError(self.path, str(error)) from None
        if frames is not None and images.frames < frames:
            missing, first = images.name(images.frames), images.name(0)
            listed = f"the list says {counted(frames, 'frame')}: there are {images.frames} from {first}"
            raise VideoError(self.path, f"{missing} is missing, and {listed}")
        return images

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, Image.Image]]:
        for number in wanted:
            name = self.image_name(number)
            path = os.path.join(self.path, name)
            try:
                with Image.open(path) as image:
                    yield number, _to_rgb(image)
            except Exception as error:  # Pillow's decoders raise many for damaged files
                if isinstance(error, FileNotFoundError) and os.path.isdir(self.path):
                    raise VideoError(self.path, f"{name} is missing") from None
                of_the_system = isinstance(error, OSError) and error.errno is not None  # Pillow's own have none
                raise VideoError(self.path, f"{name}: {error}", transient=of_the_system) from error

    def _to_rgb(self, frame: Image.Image, width: int, height: int) -> np.ndarray:
        return np.asarray(frame.resize((width, height), Image.Resampling.BILINEAR))


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image as viewers show it: upright, 8 bits, without transparency (the colours stay)."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    with suppress(Exception):  # metadata that is damaged counts as none
        ImageOps.exif_transpose(image, in_place=True)
    return image.convert("RGB")
