"""Videos to be viewed: frames with captions, written as H.264."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw

from slowfast_uniformer.data.video import VideoSource
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.outputs import atomic_output
from slowfast_uniformer.runs.fonts import draw_text, fitted

SHORT_SIDE = 360  # pixels; the largest short side of a written video, and half of it the smallest
FAST_START = {"movflags": "faststart"}  # playable while it loads
FRAME_BATCH = 64  # frames decoded together


def short_side(video: VideoSource) -> int:
    """The short side, in pixels, in which a video is written."""
    return min(max(min(video.info.width, video.info.height), SHORT_SIDE // 2), SHORT_SIDE)


def numbered_frames(video: VideoSource, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and frames (H, W, 3) uint8 of an open video from `first` to `last`, in the size to write."""
    size = short_side(video)
    for start in range(first, last + 1, FRAME_BATCH):
        numbers = range(start, min(start + FRAME_BATCH, last + 1))
        yield from zip(numbers, video.read(numbers, size), strict=True)


def write_video(path: str, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write a video that browsers play (H.264 in MP4).

    Args:
        path: ends in .mp4. The file appears when it is complete.
        frames: (H, W, 3) uint8, all of one size; an odd last row or column is cut off.
        fps: frames per second.

    Raises:
        UserError: the file cannot be written.
    """
    if not path.lower().endswith(".mp4"):
        raise UserError(f"{path}: the name of a video to write must end in .mp4")
    try:
        with atomic_output(path) as temporary, av.open(temporary, "w", format="mp4", options=FAST_START) as file:
            stream = None
            for frame in frames:
                if stream is None:
                    stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                    stream.height, stream.width = (side // 2 * 2 for side in frame.shape[:2])
                    stream.pix_fmt = "yuv420p"
                even = np.ascontiguousarray(frame[: stream.height, : stream.width])
                file.mux(stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
            file.mux(stream.encode() if stream else [])
    except av.FFmpegError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def caption(frame: np.ndarray, lines: Sequence[tuple[str, float]]) -> np.ndarray:
    """A frame (H, W, 3) with class names and probabilities, drawn as bars, at its lower left."""
    if not lines:
        return frame
    height, width = frame.shape[:2]
    row = max(14, height // 16)
    size = row * 2 // 3
    box = (min(width, 22 * row), row * len(lines) + row // 2)
    picture = Image.fromarray(frame)
    shade = Image.new("RGBA", box, (0, 0, 0, 150))
    draw = ImageDraw.Draw(shade)
    for number, (name, probability) in enumerate(lines):
        top = row // 4 + number * row
        draw.rectangle((0, top + 1, int(box[0] * probability), top + row - 2), (59, 111, 182, 210))
        text = fitted(name, size, box[0] - row, f"  {probability:.0%}")
        draw_text(draw, (row // 2, top + row // 2 + size * 3 // 8), text, size, "white")
    picture.paste(shade, (0, height - box[1]), shade)
    return np.asarray(picture)
