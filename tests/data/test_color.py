"""DATA.COLOR_MATRIX: how YUV becomes RGB where a video does not say it."""

import av
import numpy as np
import pytest
import video_factory as factory

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.decode import Video, read_frames
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError

# Luma and chroma of a frame in one colour, and what BT.601 and BT.709 make of it by their definitions.
YUV, BT601, BT709 = (100, 90, 180), (181, 67, 21), (191, 77, 17)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of one colour, whose stream names a matrix or none."""
    folder = tmp_path_factory.mktemp("colours")

    def write(height, matrix=None, codec="libx264", pix_fmt="yuv420p"):
        path = folder / f"{height}_{matrix}_{codec}_{pix_fmt}.mp4"
        if path.exists():
            return path
        tag = {"x264-params": "log=-1" + (f":colormatrix={matrix}" if matrix else "")} if codec == "libx264" else {}
        with av.open(path, "w") as container:
            stream = container.add_stream(codec, rate=25, options=tag)
            stream.width, stream.height, stream.pix_fmt = 64, height, pix_fmt
            frame = av.VideoFrame(64, height, pix_fmt)
            for plane, value in zip(frame.planes, YUV, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux([*stream.encode(frame), *stream.encode(None)])
        return path

    return write


def colour(path, *matrix):
    with Video(path, None, 60.0, *matrix) as opened:
        return opened.read([0])[0, 5, 5].astype(int)


@pytest.mark.parametrize("height", [96, 576, 718, 720, 1080])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "auto"])
def test_untagged_videos_by_key(video, height, matrix):
    expected = BT709 if matrix == "bt709" or (matrix == "auto" and height >= 720) else BT601
    assert np.abs(colour(video(height), matrix) - expected).max() <= 2


@pytest.mark.parametrize("height", [96, 720])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "auto"])
@pytest.mark.parametrize("tag, expected", [("bt709", BT709), ("smpte170m", BT601), ("bt470bg", BT601)])
def test_tagged_videos_by_their_tag(video, height, matrix, tag, expected):
    assert np.abs(colour(video(height, tag), matrix) - expected).max() <= 2


@pytest.mark.parametrize("tag", [None, "bt709"])
def test_the_default_is_what_the_scaler_does(video, tag):
    path = video(720, tag)
    with av.open(path) as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_array_equal(read_frames(path, [0])[0], expected)


@pytest.mark.parametrize("name", ["alpha.mov", "animation.gif", "ten_bit.mp4", "odd_size.mp4"])
def test_rgb_stays_and_other_formats_are_converted(tmp_path, name):
    path = factory.make(tmp_path, name)
    with Video(path) as usual, Video(path, color_matrix="bt709") as other:
        assert np.array_equal(usual.read([3]), other.read([3])) == (name in ("alpha.mov", "animation.gif"))


@pytest.mark.parametrize("tag", ["ycgco", "bt2020c"])
def test_a_matrix_that_the_scaler_does_not_know_is_a_video_error(video, tag):
    with pytest.raises(VideoError, match=r"cannot convert its colours .* zscale=matrix=709 "):
        read_frames(video(96, tag), [0])


def test_the_key_reaches_the_decoder(video):
    sample = Sample(str(video(720)), UNLABELLED)
    with open_sample(sample, "", color_matrix="auto") as opened:
        assert np.abs(opened.read([0])[0, 5, 5] - np.array(BT709)).max() <= 2
    for keys, expected in (([], BT601), (["DATA.COLOR_MATRIX", "auto"], BT709)):
        dataset = VideoDataset(load_config(None, ["NUM_GPUS", 0, *keys]), "test", [sample])
        with dataset.open(sample) as opened:
            assert np.abs(opened.read([0])[0, 5, 5] - np.array(expected)).max() <= 2


def test_only_pyav_has_a_choice():
    with pytest.raises(UserError, match="DATA.COLOR_MATRIX: auto needs DATA.DECODER pyav"):
        load_config(None, ["DATA.COLOR_MATRIX", "auto", "DATA.DECODER", "torchcodec"])
    with pytest.raises(UserError, match="DATA.COLOR_MATRIX: 'bt2020' is not one of"):
        load_config(None, ["DATA.COLOR_MATRIX", "bt2020"])
