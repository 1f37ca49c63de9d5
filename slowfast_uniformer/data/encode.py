"""Write a video anew so that it decodes fast: small, upright, square pixels, H.264 with short groups of pictures.

Every frame that the reader numbers is written, in that order. x264 runs in one thread, which makes the file the same
each time; what decodes slowly (CABAC, deblocking) is left out.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from typing import Any, NamedTuple

import av
import numpy as np

from slowfast_uniformer.data import shards
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.video import FOLDER_FPS, FrameFolder, VideoError, VideoSource
from slowfast_uniformer.paths import atomic_path

MARK = "slowfast_uniformer transcode"  # the comment in each file, which tells them from others
PRESET = "faster"  # of x264: the slower ones give no smaller files at the same quality (docs/transcode.md)
# Numbers of ITU-T H.273, and PyAV's names of the matrices
MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020"}
BT601, UNSPECIFIED = 5, 2
LIMITED_RANGE, FULL_RANGE = 1, 2
CRF, FINER, TRIES = 20.0, 2.0, 6  # the first quality that is tried, and by how much each of the next is finer
LEAST = 35.5  # dB of PSNR that each video keeps in RGB, where one colour for 2 x 2 pixels allows it
COMPARED = 8  # frames of a video that are compared
LUMA, CHROMA = 1.36, np.array([1.41, 1.07])  # squared errors in RGB of those in Y, and in Cb and Cr (BT.601, limited)
RATES = 10, 60  # between which x264 gets the frame rate: by it, it spends fewer bits on frames shown shortly


class Settings(NamedTuple):
    """How videos are written.

    Attributes:
        short_side: Length in pixels of the shorter side of larger videos.
        gop: Frames from one key frame to the next.
        fps: A constant frame rate; None keeps the time stamps.
        crf: Quality of x264 (constant rate factor), from 0, lossless, to 51. None: `CRF`, or less for a noisy video,
            so that each keeps `LEAST`.
    """

    short_side: int = 320
    gop: int = 16
    fps: float | None = None
    crf: float | None = None


class Original(Video):
    """A video file with the shape of its pixels."""

    @property
    def aspect(self) -> Fraction:
        """Width of a pixel to its height, as stored."""
        return self._stream.sample_aspect_ratio or Fraction(1)


def open_original(sample: Sample, template: str) -> VideoSource:
    """A video file or tar member, or a frame folder. Raises VideoError."""
    member = shards.opener(sample.path)
    if not member and (os.path.isdir(sample.path) or (sample.frames and not os.path.isfile(sample.path))):
        return FrameFolder(sample.path, template, sample.frames)
    return Original(sample.path, member)


def encode(
    sample: Sample, target: str, settings: Settings, template: str, check_stop: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Write a video to `target`, an mp4, or nothing.

    Args:
        sample: The video.
        target: The file to write.
        settings: How.
        template: DATA.IMAGE_TEMPLATE.
        check_stop: Called for each frame; may raise.

    Returns:
        `before` and `after`, each with codec, width, height, frames, fps and the number of key frames (`keys`).

    Raises:
        VideoError: The video cannot be read.
        OSError: The file cannot be written.
    """
    with open_original(sample, template) as video, atomic_path(target) as temporary:
        before, timing = _facts(video), _timing(video, settings.fps)
        for attempt in range(TRIES):
            crf = CRF - attempt * FINER if settings.crf is None else settings.crf
            pictures = _write(video, temporary, settings._replace(crf=crf), timing, check_stop)
            with Video(temporary) as written:  # FFmpeg does not report every error
                if written.frames != len(timing.times):
                    raise VideoError(sample.path, f"of {len(timing.times)} frames {written.frames} were written")
                after = _facts(written)
                if settings.crf is not None or _psnr(written, pictures) >= LEAST:
                    break
    return {"before": before, "after": after, "crf": crf}


def _psnr(written: Video, pictures: dict[int, tuple[np.ndarray, float]]) -> float:
    """Peak signal-to-noise ratio of some frames in dB, of their RGB values.

    Args:
        written: The file.
        pictures: By number, the planes of yuv420p and the mean squared error that these have already. What they lose
            counts unless it is too much anyhow.
    """
    errors = []
    for number, frame in written._decode([*pictures]):
        squares, height = (pictures[number][0].astype(np.float32) - frame.to_ndarray()) ** 2, frame.height
        errors.append(LUMA * squares[:height].mean() + CHROMA @ squares[height:].reshape(2, -1).mean(1))
    before, error = np.mean([error for _, error in pictures.values()]), np.mean(errors)
    return max(_decibels(before + error), _decibels(error) if _decibels(before) < LEAST else 0.0)


def _decibels(error: float) -> float:
    return 10 * math.log10(255**2 / max(float(error), 1e-9))


def _facts(video: VideoSource) -> dict[str, Any]:
    index = getattr(video, "_index", None)
    info = video.info
    keys = len(index.keys) if index else info.frames if isinstance(video, FrameFolder) else 0
    size = {"width": info.width, "height": info.height}
    return {"codec": info.codec, **size, "frames": info.frames, "fps": round(info.fps, 3), "keys": keys}


class _Timing(NamedTuple):
    """When each frame that is written is shown.

    Attributes:
        times: In units.
        unit: In seconds.
        repeats: How often each of the video's frames is written.
        fps: The mean rate.
    """

    times: list[int]
    unit: Fraction
    repeats: list[int]
    fps: float


def _timing(video: VideoSource, fps: float | None) -> _Timing:
    times, unit = list(range(video.frames)), 1 / Fraction(FOLDER_FPS)
    if isinstance(video, Original):
        times, unit = video.time_stamps()
    if not fps:
        return _Timing(times, unit, [1] * len(times), video.fps or 1 / float(unit))
    new_unit = 1 / Fraction(fps).limit_denominator(1001)
    if not isinstance(video, Original):  # nothing is known of its rate
        return _Timing(times, new_unit, [1] * len(times), fps)
    # What is shown at the time of a new frame, or a quarter of the usual distance later: time stamps are rounded.
    shown = np.array(times, float) * float(unit)
    distance = 1 / video.fps if video.fps else 1 / FOLDER_FPS
    count = max(1, round((shown[-1] - shown[0] + distance) / float(new_unit)))
    wanted = shown[0] + np.arange(count) * float(new_unit) + distance / 4
    numbers = np.clip(np.searchsorted(shown, wanted, "right") - 1, 0, None)
    return _Timing(list(range(count)), new_unit, np.bincount(numbers, minlength=len(times)).tolist(), fps)


def scaled_size(width: int, height: int, aspect: Fraction, short_side: int) -> tuple[int, int]:
    """Even width and height for square pixels, the shorter side at most `short_side`."""
    shown = width * aspect, Fraction(height)
    scale = min(Fraction(1), short_side / min(shown))
    return max(2, math.floor(shown[0] * scale) // 2 * 2), max(2, math.floor(shown[1] * scale) // 2 * 2)


def _frames(video: VideoSource) -> Iterator[Any]:
    """All frames in the order of their numbers; reading each has the time limit of a read."""
    video._start_clock()
    for expected, (number, frame) in enumerate(video._decode(list(range(video.frames)))):
        if number != expected:
            raise VideoError(video.path, f"decoding gives frame {number} in the place of {expected}")
        yield frame
        video._start_clock()


def _is_yuv(frame: Any) -> bool:
    return isinstance(frame, av.VideoFrame) and not frame.format.is_rgb and not frame.format.has_palette


class _Converter:
    """Makes pictures of a video's frames that are read as those are shown, without what is attached to them."""

    def __init__(self, video: VideoSource, short_side: int):
        info, aspect = video.info, video.aspect if isinstance(video, Original) else Fraction(1)
        step = -1 if info.rotation % 180 else 1  # pixels are wide as they are stored
        self.size = scaled_size(*(info.width, info.height)[::step], aspect, short_side)[::step]
        self._video, self._is_upright = video, not info.rotation and not info.mirrored
        self._reformatter = av.video.reformatter.VideoReformatter()

    def __call__(self, frame: Any) -> tuple[np.ndarray, float]:
        """The planes of yuv420p (3 / 2 H, W), and the mean squared error in RGB of having fewer colours than pixels."""
        width, height = self.size
        if _is_yuv(frame) and frame.format.name == "yuv420p" and frame.color_range != FULL_RANGE:
            if self._is_upright and (frame.width, frame.height) == self.size:
                return frame.to_ndarray(), 0.0
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(self._video._to_rgb(frame, width, height)), "rgb24")
        matrix = MATRICES.get(frame.colorspace, "ITU601") if _is_yuv(frame) else "ITU601"
        yuv = self._reformatter.reformat(
            rgb, width, height, "yuv444p", dst_colorspace=matrix, dst_color_range="MPEG", threads=1
        ).to_ndarray()
        # Reading gives each 2 x 2 pixels one colour: their mean is the nearest. FFmpeg's scaler takes more pixels.
        squares = yuv[1:].reshape(2, height // 2, 2, width // 2, 2)
        corners = [squares[:, :, row, :, column].astype(np.int16) for row in (0, 1) for column in (0, 1)]
        chroma = (sum(corners) + 2) // 4
        error = CHROMA @ np.mean([((corner - chroma) ** 2).mean((1, 2)) for corner in corners], 0)
        planes = np.concatenate([yuv[0].reshape(-1), chroma.astype(np.uint8).reshape(-1)])
        return planes.reshape(-1, width), float(error)


def _tags(video: VideoSource, frame: Any) -> dict[str, int]:
    """The colour tags for what `_Converter` makes of the video's frames. What has none stays so: DATA.COLOR_MATRIX
    decides. Of others than YUV the matrix is said."""
    if not _is_yuv(frame):
        return {"colorspace": BT601, "color_range": LIMITED_RANGE}
    context = video._stream.codec_context
    return {
        "colorspace": frame.colorspace if frame.colorspace in (*MATRICES, UNSPECIFIED) else BT601,
        "color_primaries": context.color_primaries,
        "color_trc": context.color_trc,
        "color_range": LIMITED_RANGE if frame.color_range else 0,
    }


def _write(
    video: VideoSource, path: str, settings: Settings, timing: _Timing, check_stop: Callable[[], None]
) -> dict[int, tuple[np.ndarray, float]]:
    """Write the file; returns what `_Converter` has made of some of the frames, by number."""
    ticks = str(timing.unit.denominator)
    muxing = {"movflags": "faststart", "video_track_timescale": ticks, "movie_timescale": ticks}
    convert, count = _Converter(video, settings.short_side), len(timing.times)
    rate = Fraction(min(max(timing.fps, RATES[0]), RATES[1])).limit_denominator(1001)
    compared = set(range(0, count, max(1, count // COMPARED) | 1))  # odd: not key frames alone
    pictures, number = {}, 0
    frames = _frames(video)
    first = next(frames)
    with av.open("file:" + path, "w", format="mp4", options=muxing) as container:
        container.metadata["comment"] = MARK
        stream = container.add_stream("libx264", rate=rate, options=_x264(settings))
        stream.width, stream.height, stream.pix_fmt = *convert.size, "yuv420p"
        stream.codec_context.thread_count = 1
        for name, value in _tags(video, first).items():
            setattr(stream.codec_context, name, value)
        muxer = _Muxer(container, timing, rate)
        for frame, repeats in zip(chain([first], frames), timing.repeats, strict=True):
            check_stop()
            converted = convert(frame) if repeats else None
            for _ in range(repeats):
                if number in compared:
                    pictures[number] = converted
                picture = av.VideoFrame.from_ndarray(converted[0], "yuv420p")
                # x264 sees frames at a constant rate: its bits do not depend on the time stamps.
                picture.pts, picture.time_base = number, 1 / rate
                muxer.write(stream.encode(picture))
                number += 1
        muxer.write(stream.encode(None))
    return pictures


def _x264(settings: Settings) -> dict[str, str]:
    params = {"keyint": settings.gop, "min-keyint": settings.gop, "scenecut": 0, "bframes": 3, "threads": 1, "log": -1}
    # No frame refers to a B-frame: reading skips those that are not wanted. With B-frames, x264's macroblock tree would
    # make another file each time.
    params |= {"b-pyramid": 0, "mbtree": 0}
    # Pixels count, not what eyes see; and colours, of which there is one to 2 x 2 pixels already.
    params |= {"psy": 0, "chroma-qp-offset": -2}
    return {
        "crf": f"{settings.crf:g}",
        "preset": PRESET,
        "tune": "fastdecode",
        "x264-params": ":".join(f"{name}={value}" for name, value in params.items()),
    }


class _Muxer:
    """Writes packets, one a frame in the order of decoding, with the time stamps of the frames that they hold."""

    def __init__(self, container: av.container.OutputContainer, timing: _Timing, rate: Fraction):
        self._container, self._timing, self._rate = container, timing, rate
        times = timing.times
        # The last frame lasts until the mean rate is the video's: so the header says that rate, as the video's did.
        end = max(times[-1] + 1, times[0] + round(len(times) / timing.fps / float(timing.unit)))
        self._shown = [*times, end]
        # Where B-frames are, each packet is decoded a frame before it is shown, or later.
        self._decoded = [2 * self._shown[0] - self._shown[1], *self._shown[:-1]]
        self._written = 0

    def write(self, packets: Sequence[av.Packet]) -> None:
        for packet in packets:
            number, at = round(packet.pts * packet.time_base * self._rate), self._written
            packet.pts, packet.dts, packet.time_base = self._shown[number], self._decoded[at], self._timing.unit
            packet.duration = self._shown[number + 1] - self._shown[number]
            if at == len(self._shown) - 2:  # to the end of the file, in the time of decoding
                left = self._shown[-1] - self._shown[0] - (self._decoded[at] - self._decoded[0])
                packet.duration = max(1, left)
            self._container.mux(packet)
            self._written += 1
