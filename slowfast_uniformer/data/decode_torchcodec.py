"""Frames by torchcodec in its exact mode, which counts a file's frames before it reads (DATA.DECODER).

The frames of sound mp4, mov and webm files are those of data/decode.py. Where that one decodes from the start
because container or codec mislead (AVI, MPEG), torchcodec's numbers can mean other frames (docs/decoding.md).
"""

import os
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from slowfast_uniformer.data.video import READ_TIMEOUT, OpenFile, VideoError, VideoInfo, VideoSource
from slowfast_uniformer.errors import UserError


def check() -> None:
    """UserError, with the remedy, unless torchcodec and the FFmpeg libraries that it needs can be loaded."""
    try:
        import torchcodec

        # Without the libraries some versions fail on import, others when something is first decoded.
        cause = None if torchcodec.ffmpeg_major_version else "it finds no FFmpeg libraries that fit"
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        cause = str(error).splitlines()[0]
    if cause:
        raise UserError(
            f"DATA.DECODER torchcodec cannot be used: {cause}. Install it in a version made for this PyTorch "
            "(pip install slowfast_uniformer[torchcodec]) and FFmpeg's shared libraries (apt install ffmpeg "
            "or conda install ffmpeg), or set DATA.DECODER pyav"
        )


class TorchCodecVideo(VideoSource):
    """As `decode.Video`, but `timeout` counts only between frames: no call of torchcodec is cut short."""

    def __init__(self, path: str | os.PathLike, open_file: OpenFile = None, timeout: float = READ_TIMEOUT):
        from torchcodec.decoders import VideoDecoder

        super().__init__(path, open_file, timeout)
        try:
            self._decoder = VideoDecoder(
                self._opened(), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
            meta = self._decoder.metadata
            height, width = self._decoder.get_frame_at(0).data.shape[:2]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise self._failure(error) from error
        self.callback(setattr, self, "_decoder", None)  # it closes its file when nothing refers to it
        rotation = round((meta.rotation or 0) / 90) * 90 % 360
        self.frames, self.fps = meta.num_frames, float(meta.average_fps or 0)
        self.info = VideoInfo(self.frames, self.fps, width, height, rotation, meta.codec)

    def _failure(self, error: Exception) -> VideoError:
        """In the first line of what torchcodec says, the cause follows the place in its source."""
        lines = str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__]
        return VideoError(self.path, re.sub(r"^.*\.cpp:\d+, ", "", lines[0]))

    def _pictures(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in self._in_time(wanted):
            try:
                picture = self._decoder.get_frame_at(number).data.numpy()
            except (RuntimeError, ValueError, IndexError) as error:
                raise self._failure(error) from error
            yield number, picture

    def _rgb(self, picture: np.ndarray, width: int, height: int) -> np.ndarray:
        if picture.shape[:2] == (height, width):
            return picture
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
