"""Frames of a video file by number, with torchcodec in exact seek mode (DATA.DECODER torchcodec).

Undamaged mp4, mov and webm files give the frames of data/decode.py. Where that module decodes from the start
because time stamps mislead (AVI, MPEG), torchcodec's numbers can mean other frames (docs/decoding.md).
"""

import math
import os
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from slowfast_uniformer.data import ffmpeg_errors
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.video import FOLDER_FPS, READ_TIMEOUT, OpenFile, VideoError, VideoInfo, VideoSource
from slowfast_uniformer.errors import UserError


def check() -> None:
    """Raise UserError, with the remedy, unless torchcodec and its FFmpeg libraries can be loaded."""
    try:
        import torchcodec

        # Without the libraries some versions fail on import, others at the first decoding.
        cause = None if torchcodec.ffmpeg_major_version else "it finds no FFmpeg libraries of a supported version"
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        cause = str(error).splitlines()[0]
    if cause:
        raise UserError(
            f"DATA.DECODER torchcodec cannot be used: {cause}. Install it in a version made for this PyTorch "
            "(pip install slowfast_uniformer[torchcodec]) and FFmpeg's shared libraries (apt install ffmpeg "
            "or conda install ffmpeg), or set DATA.DECODER pyav"
        )


class TorchCodecVideo(VideoSource):
    """A video file decoded by torchcodec. The timeout is checked between frames: a call of torchcodec cannot be
    interrupted."""

    def __init__(
        self,
        path: str | os.PathLike,
        open_file: OpenFile = None,
        timeout: float = READ_TIMEOUT,
        color_matrix: str = "bt601",
    ):
        from torchcodec.decoders import VideoDecoder

        super().__init__(path, open_file, timeout)
        if color_matrix != "bt601":
            raise UserError(f"DATA.COLOR_MATRIX {color_matrix} needs DATA.DECODER pyav: torchcodec has bt601 only")
        content = None
        try:
            content = ffmpeg_errors.content(self.path, open_file) if open_file or os.path.isfile(path) else None
            if content == ffmpeg_errors.ENCRYPTED:  # which torchcodec decodes to noise
                raise VideoError(self.path, content)
            self._decoder = VideoDecoder(self._file(), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            meta = self._decoder.metadata
            height, width = self._decoder.get_frame_at(0).data.shape[:2]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise VideoError(self.path, content) if content else self._failure(error) from error
        self.callback(setattr, self, "_decoder", None)  # the decoder closes its file when it is freed
        rotation = round((meta.rotation or 0) / 90) * 90 % 360
        self.frames, self.fps = meta.num_frames, float(meta.average_fps or 0)
        self._times: np.ndarray | None = None
        self.info = VideoInfo(self.frames, self.fps, width, height, rotation, meta.codec)

    def times(self, unknown_fps: float = FOLDER_FPS) -> np.ndarray:
        """Those of data/decode.py, which reads the packets: torchcodec tells the times of decoded frames only."""
        if self._times is None:
            with Video(self.path, self._open_file, 0 if math.isinf(self._timeout) else self._timeout) as video:
                if video.frames != self.frames:
                    raise VideoError(
                        self.path,
                        f"torchcodec counts {self.frames} frames and PyAV {video.frames}, so that times of frames are "
                        "not known; set DATA.DECODER pyav",
                    )
                self._times = video.times(unknown_fps)
        return self._times

    def _failure(self, error: Exception) -> VideoError:
        """The cause is in the first line of torchcodec's message, after a position in its source."""
        lines = str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__]
        return VideoError(self.path, re.sub(r"^.*\.cpp:\d+, ", "", lines[0]))

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in self._in_time(wanted):
            try:
                frame = self._decoder.get_frame_at(number).data.numpy()
            except (RuntimeError, ValueError, IndexError) as error:
                raise self._failure(error) from error
            yield number, frame

    def _to_rgb(self, frame: np.ndarray, width: int, height: int) -> np.ndarray:
        if frame.shape[:2] == (height, width):
            return frame
        return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
