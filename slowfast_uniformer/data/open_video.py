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


def open_sample(
    sample: Sample, template: str, decoder: str = "pyav", timeout: float = READ_TIMEOUT, color_matrix: str = "bt601"
) -> VideoSource:
    """Open a video file, a tar member, or a frame folder.

    Args:
        sample: The video (`data.input_lists.path_sample` makes one of a path).
        template: File names of a frame folder's images (DATA.IMAGE_TEMPLATE).
        decoder: "pyav" or "torchcodec" (DATA.DECODER).
        timeout: Seconds for opening and for each read; 0 for no limit (DATA.READ_TIMEOUT).
        color_matrix: How videos are converted that do not say it (DATA.COLOR_MATRIX; `data.color`).

    Raises:
        VideoError: The video cannot be opened.
    """
    path, member = sample.path, shards.opener(sample.path)
    if not member and (os.path.isdir(path) or (sample.frames is not None and not os.path.isfile(path))):
        return FrameFolder(path, template, sample.frames)
    return decoder_class(decoder)(path, member, timeout, color_matrix)
