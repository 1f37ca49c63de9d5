"""The decoder that DATA.DECODER names."""

from collections.abc import Callable
from functools import partial

from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.video import VideoSource


def video_opener(decoder: str, timeout: float) -> Callable[..., VideoSource]:
    """What takes (path, open_file) and opens videos by DATA.DECODER, "pyav" or "torchcodec". UserError if
    torchcodec cannot be used."""
    if decoder == "torchcodec":
        from slowfast_uniformer.data import decode_torchcodec

        decode_torchcodec.check()
        return partial(decode_torchcodec.TorchCodecVideo, timeout=timeout)
    return partial(Video, timeout=timeout)
