"""Opens the video of a sample, wherever it is stored, with the decoder that DATA.DECODER names."""

import os

from slowfast_uniformer.data import shards
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.video import READ_TIMEOUT, FrameFolder, VideoSource


def decoder_class(name: str) -> type[VideoSource]:
    """The class of DATA.DECODER, "pyav" or "torchcodec". UserError if torchcodec cannot be loaded."""
    if name == "torchcodec":
        from slowfast_uniformer.data import decode_torchcodec

        decode_torchcodec.check()
        return decode_torchcodec.TorchCodecVideo
    from slowfast_uniformer.data.decode import Video

    return Video


def open_sample(sample: Sample, template: str, decoder: str = "pyav", timeout: float = READ_TIMEOUT) -> VideoSource:
    """Open a video file, a tar member, or the frame folder of a sample with a number of frames.

    Args:
        sample: The video (`data.input_lists.path_sample` makes one of a path).
        template: File names of a frame folder's images (DATA.IMAGE_TEMPLATE).
        decoder: "pyav" or "torchcodec" (DATA.DECODER).
        timeout: Seconds for opening and for each read; 0 for no limit (DATA.READ_TIMEOUT).

    Raises:
        VideoError: The video cannot be opened.
    """
    member = shards.opener(sample.path)
    if sample.frames is not None and not member and not os.path.isfile(sample.path):
        return FrameFolder(sample.path, template, sample.frames)
    return decoder_class(decoder)(sample.path, member, timeout)
