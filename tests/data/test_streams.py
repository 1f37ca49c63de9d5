"""The stream that players show, refusal of encrypted ones, and the frame rate by time stamps."""

import sys
from fractions import Fraction
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import video_factory as factory
from av.stream import Disposition
from PIL import Image

from slowfast_uniformer.data import streams
from slowfast_uniformer.data.decode import Video, probe
from slowfast_uniformer.data.decode_torchcodec import TorchCodecVideo
from slowfast_uniformer.data.video import VideoError

KEY = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "00112233445566778899aabbccddeeff",
    "encryption_kid": "112233445566778899aabbccddeeff00",
}
REFUSED = r"cannot read {}: the video stream is encrypted \(DRM\)"


def write_streams(path, *kinds):
    """A file with several video streams, each (width, number of frames, disposition)."""
    with av.open(path, "w") as container:
        made = []
        for width, _, disposition in kinds:
            stream = container.add_stream("libx264", rate=25, options=factory.X264)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            stream.disposition = disposition
            made.append(stream)
        packets = []
        for stream, (width, frames, _) in zip(made, kinds, strict=True):
            for number, picture in enumerate(factory.pictures(max(frames, 1), width, 48)[:frames]):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                packets += stream.encode(frame)
            packets += stream.encode(None) if frames else []
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


DEFAULT, OTHER, COVER = Disposition.default, Disposition(0), Disposition.attached_pic


@pytest.mark.parametrize(
    "kinds, width, frames",
    [
        ([(64, 20, OTHER), (96, 20, DEFAULT)], 96, 20),  # the default one
        ([(64, 20, DEFAULT), (96, 20, OTHER)], 64, 20),
        ([(64, 20, DEFAULT), (96, 20, DEFAULT | Disposition.visual_impaired)], 64, 20),
        ([(64, 1, DEFAULT), (96, 20, DEFAULT)], 96, 20),  # the sequence, not its cover
        ([(64, 20, DEFAULT)], 64, 20),
    ],
)
def test_the_stream_that_players_show(tmp_path, kinds, width, frames):
    info = probe(write_streams(tmp_path / "a.mkv", *kinds))
    assert (info.width, info.frames) == (width, frames)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_stream_without_packets_is_passed_over(tmp_path, name):
    path = write_streams(tmp_path / name, (64, 0, DEFAULT), (96, 20, OTHER))
    with Video(path) as video:
        assert video.read(range(20)).shape == (20, 48, 96, 3)


def test_no_stream_has_packets(tmp_path):
    path = write_streams(tmp_path / "a.mkv", (64, 0, DEFAULT), (96, 0, DEFAULT))
    with pytest.raises(VideoError, match=f"cannot read {path}: "):
        Video(path)


def test_an_animation_is_read_and_not_its_still_picture(tmp_path):
    pictures = [Image.fromarray(picture) for picture in factory.pictures(5, 64, 48)]
    pictures[0].save(tmp_path / "a.avif", save_all=True, append_images=pictures[1:], duration=100)
    info = probe(tmp_path / "a.avif")
    assert (info.frames, info.fps) == (5, 10.0)


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov"])
def test_encrypted_mp4(tmp_path, movflags):
    path = factory.write_video(tmp_path / "a.mp4", muxing=KEY | {"movflags": movflags}, **factory.X264)
    with pytest.raises(VideoError, match=REFUSED.format(path)):
        Video(path)


def test_encryption_can_begin_after_the_first_seconds(tmp_path, monkeypatch):
    path = factory.write_video(tmp_path / "a.mp4", **factory.X264)
    packets = iter([False, True])
    monkeypatch.setattr(streams, "encrypted", lambda packet: next(packets))
    with pytest.raises(VideoError, match=REFUSED.format(path)):
        Video(path)


@pytest.mark.parametrize("entry", [b"encv", b"drmi"])
def test_a_sample_entry_of_encrypted_video_is_named(tmp_path, entry):
    path = factory.write_video(tmp_path / "a.mp4", **factory.X264)
    path.write_bytes(path.read_bytes().replace(b"avc1", entry))
    with pytest.raises(VideoError, match=REFUSED.format(path)):
        Video(path)


def test_scrambled_transport_stream(tmp_path):
    path = factory.write_video(tmp_path / "a.ts", **factory.X264)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 188):
        if data[at + 1] & 31 == 1 and data[at + 2] == 0:  # the video's packets, PID 256
            data[at + 3] |= 0x80
            data[at + 24 : at + 188] = np.random.RandomState(at).bytes(164)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=REFUSED.format(path)):
        Video(path)


@pytest.mark.parametrize(
    "of_stream, of_container", [({"enc_key_id": "MDEy"}, {}), ({}, {"encryption": "ASF Extended Content Encryption"})]
)
def test_tags_of_encryption(of_stream, of_container):
    stream = SimpleNamespace(metadata=of_stream, codec_context=object())
    assert "encrypted" in streams.fault(SimpleNamespace(metadata=of_container), stream)
    assert streams.fault(SimpleNamespace(metadata={}), SimpleNamespace(metadata={}, codec_context=object())) is None


NTSC, MS = 30000 / 1001, Fraction(1, 1000)


@pytest.mark.parametrize(
    "times, time_base, header, expected",
    [
        ([n * 1001 for n in range(50)], Fraction(1, 30000), NTSC, NTSC),
        ([round(n * 1001 / 30) for n in range(500)], MS, NTSC, NTSC),  # rounded to milliseconds
        ([round(n * 1001 / 30) for n in range(500)], MS, 1000.0, pytest.approx(NTSC, rel=1e-4)),
        ([round(n * 1001 / 30) for n in range(9000)], MS, 30.0, pytest.approx(NTSC, rel=1e-4)),
        ([n * 40 for n in range(30)], MS, 0.0, 25.0),
        ([n * 40 for n in range(30)], MS, 50.0, 25.0),
        ([n * 40 for n in range(30)], MS, 12.5, 25.0),
        ([n * 40 for n in range(29)] + [1200], MS, 25.0, 25.0),  # one frame is missing; the header is right
        ([0, 40, 80, 120, 1000], MS, 600.0, 5 / 1.04),  # the mean, not the usual distance
        ([n * 40 for n in [1, 0, 4, 3, 2, 7, 6, 5] * 1], MS, 99.0, 25.0),  # in decoding order
        ([n * 40 for k in range(0, 60, 3) for n in (k + 2, k, k + 1)], MS, 99.0, 25.0),
        ([n * 40 for n in [*range(40), *range(20)]], MS, 99.0, 25.0),  # the clock is set back
        ([n * 40 + (n > 20) * 10**7 for n in range(40)], MS, 99.0, 25.0),  # and far ahead
        ([None, 40, None, 120, None, None, 240, None], MS, 99.0, 25.0),
        ([None] * 9, MS, 25.0, 25.0),
        ([None] * 9, MS, 1000.0, 0.0),  # a header that says its time base
        ([0], MS, 25.0, 25.0),
        ([7] * 9, MS, 25.0, 25.0),
        ([], MS, 0.0, 0.0),
    ],
)
def test_frame_rate(times, time_base, header, expected):
    assert streams.frame_rate(times, time_base, header) == expected


@pytest.mark.parametrize("name", ["a.mkv", "a.flv", "a.mp4", "a.mov", "a.ts"])
@pytest.mark.parametrize("distance", [3, 1])
def test_the_rate_of_a_header_is_not_believed_alone(tmp_path, name, distance):
    """The encoder is told 1000 frames per second."""
    path = tmp_path / name
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=1000, options=factory.X264)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number, picture in enumerate(factory.pictures(30, 96, 64)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number * distance * 10, MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe(path).fps == pytest.approx(100 / distance, rel=0.01)


@pytest.mark.parametrize("name", ["b_frames.mp4", "long_gop.mkv", "vp9.webm", "stream.ts", "h264.avi", "two_sizes.ts"])
def test_usual_files_keep_the_rate_of_their_header(tmp_path, name):
    assert probe(factory.make(tmp_path, name)).fps == 25.0


def test_torchcodec_is_not_given_encrypted_videos(tmp_path, monkeypatch):
    path = factory.write_video(tmp_path / "a.mp4", muxing=KEY, **factory.X264)
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=None))
    with pytest.raises(VideoError, match=REFUSED.format(path)):
        TorchCodecVideo(path)
