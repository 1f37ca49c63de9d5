"""Which matrix turns a frame's YUV into RGB (DATA.COLOR_MATRIX)."""

import av
from av.video.reformatter import VideoReformatter

from slowfast_uniformer.data.video import VideoError

UNSPECIFIED = 2  # the value of a matrix that is not given (ITU-T H.273, matrix coefficients)
HIGH_DEFINITION = 720  # lines from which players take untagged videos as BT.709


def to_rgb24(
    reformatter: VideoReformatter, frame: av.VideoFrame, width: int, height: int, untagged: str, path: str
) -> av.VideoFrame:
    """The frame in RGB, scaled (bilinear).

    Args:
        reformatter: Keeps what FFmpeg's scaler prepares for a size.
        frame: The frame. Where its stream names a matrix, that is taken.
        width: Width in pixels.
        height: Height in pixels.
        untagged: The matrix of others (DATA.COLOR_MATRIX): bt601, which is what FFmpeg's scaler takes; bt709; or auto:
            bt709 if the stored picture has 720 lines or more.
        path: The video's, for errors.

    Raises:
        VideoError: FFmpeg's scaler does not know the matrix (YCgCo, constant luminance).
    """
    bt709 = untagged == "bt709" or (untagged == "auto" and frame.height >= HIGH_DEFINITION)
    matrix = "ITU709" if bt709 and frame.colorspace == UNSPECIFIED and not frame.format.is_rgb else None
    try:
        return reformatter.reformat(
            frame, width, height, "rgb24", src_colorspace=matrix, interpolation="BILINEAR", threads=1
        )
    except av.FFmpegError as error:
        raise VideoError(
            path,
            f"FFmpeg's scaler cannot convert its colours (matrix {frame.colorspace}: {error.strerror}); convert them "
            "first (ffmpeg -i IN -vf zscale=matrix=709 -c:v libx264 OUT.mp4)",
        ) from error
