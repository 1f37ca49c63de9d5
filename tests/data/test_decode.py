"""Reading frames: bit for bit those of decoding everything and counting; and what is said when that fails."""

import errno
import gc
import os
import sys
import weakref
from contextlib import suppress
from itertools import count, islice
from types import SimpleNamespace

import av
import numpy as np
import pytest
import video_factory as factory
from PIL import Image

from slowfast_uniformer.data import ffmpeg_errors, packet_index, sampling
from slowfast_uniformer.data import video as video_module
from slowfast_uniformer.data.decode import Video, probe, read_frames
from slowfast_uniformer.data.open_video import decoder_class
from slowfast_uniformer.data.video import VideoError, VideoInfo
from slowfast_uniformer.errors import UserError

# Read without decoding from the start. Of the rest, some are not seekable and some not sound.
SEEKING = """b_frames.mp4 long_gop.mkv short_gop.mov open_gop.mkv edit_list.mp4 variable_rate.mp4 odd_size.mp4
hevc.mp4 hevc_layers.mkv hevc_leading.mp4 vp9.webm vp9_odd_size.webm mpeg4_b_frames.mp4 av1.mp4 turned_90.mp4
cut_off.webm fragmented.mp4 live.mkv foreign_tags.mp4 wide_pixels.mp4 ten_bit.mp4 interlaced.mp4 alpha.webm
two_sizes.webm"""

VP8 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "16", "auto-alt-ref": "1"}  # with hidden frames


def everything(path, **reformat):
    with av.open(path, metadata_errors="ignore") as container:
        container.streams.video[0].thread_type = "NONE"  # threads guess otherwise at what is damaged
        frames = list(container.decode(video=0))
    reformat = {"width": frames[0].width, "height": frames[0].height} | reformat
    return [np.rot90(f.to_ndarray(format="rgb24", **reformat), round(f.rotation / 90)) for f in frames]


def playable(path):
    """The frames that a player shows, which passes over errors."""
    frames = []
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        with suppress(av.FFmpegError):
            for packet in container.demux(video=0):
                with suppress(av.FFmpegError):
                    frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
    return frames


def assert_exact(path, expected=None):
    """What is said to be there can be read, and is what a player shows: at once, spread, and each alone."""
    expected = playable(path) if expected is None else expected
    count, random = len(expected), np.random.RandomState(0)
    with Video(path) as opened:
        assert opened.info.frames == count > 0
        for indices in [range(count), random.randint(0, count, 5), *([number] for number in range(count)[::-1])]:
            assert_frames(opened.read(indices), expected, indices)
    return count


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    made = {}

    def get(name):
        if name not in made:
            made[name] = factory.make(folder, name)
        return made[name] or pytest.skip(f"this PyAV has no encoder for {name}")

    return get


def from_start_forbidden(self):
    raise AssertionError("decoded from the start")
    yield


def assert_frames(frames, expected, indices):
    np.testing.assert_array_equal(frames, np.stack([expected[number] for number in indices]))


@pytest.mark.parametrize("name", factory.VIDEOS)
def test_frames_are_those_of_decoding_everything(video, name, monkeypatch):
    path = video(name)
    expected = everything(path)
    count, random = len(expected), np.random.RandomState(0)
    several = [range(count), range(0, count, 7), [count // 2] * 2, random.randint(0, count, 12)]
    if name in SEEKING.split():
        monkeypatch.setattr(Video, "_from_start", from_start_forbidden)
    with Video(path) as opened:
        height, width = expected[0].shape[:2]
        assert (opened.info.frames, opened.info.width, opened.info.height) == (count, width, height)
        for indices in [*several, *([number] for number in range(count))]:
            frames = opened.read(indices)
            assert frames.dtype == np.uint8
            assert_frames(frames, expected, indices)


def test_pictures_of_the_factory_all_differ(video):
    frames = everything(video("b_frames.mp4"))
    assert len(frames) == 60 == len({frame.tobytes() for frame in frames})


@pytest.mark.parametrize(
    "name, frames", [("mpeg4_no_new_picture.avi", 60), ("open_gop_first.mp4", 17), ("edit_list.mp4", 55)]
)
def test_files_with_more_packets_than_frames(video, name, frames):
    with av.open(video(name)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) > frames
    assert probe(video(name)).frames == frames


@pytest.mark.parametrize(
    "name, fact",
    {
        "long_gop.mkv": lambda stream: stream.frames == 0,
        "fragmented.mp4": lambda stream: stream.frames == 0,
        "live.mkv": lambda stream: not stream.duration and not stream.container.duration,
        "wrong_count.avi": lambda stream: stream.frames == 1000,
        "wide_pixels.mp4": lambda stream: stream.sample_aspect_ratio == 2,
        "no_times.h264": lambda stream: next(stream.container.demux(stream)).pts is None,
        "ten_bit.mp4": lambda stream: stream.format.name == "yuv420p10le",
        "alpha.mov": lambda stream: stream.format.name == "rgba",
        "interlaced.mp4": lambda stream: next(stream.container.decode(stream)).interlaced_frame,
        "interlaced.mpg": lambda stream: next(stream.container.decode(stream)).interlaced_frame,
        "two_sizes.webm": lambda stream: len({f.width for f in stream.container.decode(stream)}) == 2,
        "two_sizes.ts": lambda stream: len({f.width for f in stream.container.decode(stream)}) == 2,
    }.items(),
)
def test_files_of_the_factory_are_as_odd_as_their_names_say(video, name, fact):
    with av.open(video(name)) as container:
        assert fact(container.streams.video[0])


def test_foreign_tags_cannot_be_read_as_text(video):
    with pytest.raises(UnicodeDecodeError):
        av.open(video("foreign_tags.mp4"), metadata_errors="strict")


def test_fewer_frames_than_asked_for_are_repeated(video):
    indices = sampling.dense(3, num_frames=8, rate=1, view=0)
    expected = everything(video("three_frames.mp4"))
    assert_frames(read_frames(video("three_frames.mp4"), indices), expected, [0, 1, 2, 2, 2, 2, 2, 2])


def test_info(video):
    info = VideoInfo(frames=60, fps=25.0, width=96, height=64, rotation=0, codec="h264")
    assert probe(video("b_frames.mp4")) == info
    assert probe(video("variable_rate.mp4")).fps == pytest.approx(25 * 60 / 556, rel=0.1)
    assert probe(video("av1.mp4")).codec == "av1"


@pytest.mark.parametrize("name", ["b_frames.mp4", "turned_90.mp4", "two_sizes.webm", "two_sizes.ts"])
@pytest.mark.parametrize("number", [0, -1])
def test_info_is_the_same_after_any_frame_is_read(video, name, number):
    info = probe(video(name))
    with Video(video(name)) as opened:
        frames = opened.read([number % info.frames])
        assert frames.shape == (1, info.height, info.width, 3) and opened.info == info


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_turns_clockwise_as_the_file_says(video, degrees):
    upright, path = everything(video("b_frames.mp4"))[30], video(f"turned_{degrees}.mp4")
    turned = read_frames(path, [30])[0]
    assert np.abs(turned.astype(int) - np.rot90(upright, -degrees // 90)).mean() < 3
    assert np.abs(turned.astype(int) - np.rot90(upright, -degrees // 90 + 2)).mean() > 20
    assert probe(path).rotation == 360 - degrees


@pytest.mark.parametrize(
    "name, short_side, stored, shown",
    [
        ("b_frames.mp4", 40, (60, 40), (60, 40)),
        ("b_frames.mp4", 130, (195, 130), (195, 130)),
        ("odd_size.mp4", 50, (76, 50), (76, 50)),
        ("mpeg4.avi", 41, (61, 41), (61, 41)),
        ("turned_90.mp4", 40, (60, 40), (40, 60)),
        ("turned_180.mp4", 40, (60, 40), (60, 40)),
    ],
)
def test_short_side_scales_while_converting(video, name, short_side, stored, shown):
    path, indices = video(name), [3, 59, 17]
    expected = everything(path, width=stored[0], height=stored[1], interpolation="BILINEAR")
    frames = read_frames(path, indices, short_side)
    assert frames.shape == (3, shown[1], shown[0], 3)
    assert_frames(frames, expected, indices)


def test_converts_only_what_is_wanted_and_once(video, monkeypatch):
    converted, rgb = [], Video._to_rgb
    monkeypatch.setattr(Video, "_to_rgb", lambda *arguments: converted.append(arguments) or rgb(*arguments))
    read_frames(video("long_gop.mkv"), [5, 5, 2])
    read_frames(video("mpeg4.avi"), [7, 50, 7])
    assert len(converted) == 4


@pytest.mark.parametrize("indices", [[-1], [60], [0, 61]])
def test_a_number_outside_the_video_is_a_programming_error(video, indices):
    with Video(video("b_frames.mp4")) as opened, pytest.raises(ValueError, match="of 60 frames"):
        opened.read(indices)


def test_no_frames_wanted(video):
    assert read_frames(video("b_frames.mp4"), []).shape == (0, 64, 96, 3)


def damaged(folder, number, share=0.0, **settings):
    path = factory.write_video(folder / "damaged.mp4", bframes=0, **factory.X264 | settings)
    sound = everything(path)
    return factory.damage(path, number, share), sound


def test_a_damaged_packet_is_passed_over(tmp_path):
    path, sound = damaged(tmp_path, 15)  # groups begin at 0, 12, 23 and so on
    assert assert_exact(path) == 59
    assert_frames(read_frames(path, range(15)), sound, range(15))
    assert_frames(read_frames(path, range(22, 59)), sound, range(23, 60))


def test_a_broken_slice_does_not_spoil_other_frames(tmp_path):
    """A decoder that has met one can get even a key frame wrong afterwards."""
    settings = {"size": (320, 240), "gop": 250, "x264-params": "log=-1:scenecut=0:cabac=0"}
    path, sound = damaged(tmp_path, 30, 0.9, **settings)
    with Video(path) as opened:
        for indices in ([0], [0, 5, 29]):
            assert not np.array_equal(opened.read([30])[0], sound[30])
            assert_frames(opened.read(indices), sound, indices)


@pytest.mark.parametrize("number, shown_before", [(16, 15), (20, 19)])
def test_damage_is_seen_in_time_for_frames_shown_before_it(tmp_path, number, shown_before):
    """A frame between two others refers to the later one, which the decoder mends and gives after it."""
    path = factory.write_video(tmp_path / "a.mp4", bframes=3, size=(192, 128), **factory.X264)
    expected = everything(factory.damage(path, number, 0.7))
    assert_frames(read_frames(path, [shown_before]), expected, [shown_before])


@pytest.mark.parametrize("by_seeking", [True, False])
def test_a_frame_lost_without_a_word_is_an_error_and_shifts_no_other(tmp_path, monkeypatch, by_seeking):
    path = factory.write_video(tmp_path / "lost.mp4", codec="mpeg4", bframes=0, size=(192, 128))
    factory.lose_mpeg4(path, 14)
    left = everything(path)
    assert len(left) == 59
    if not by_seeking:
        monkeypatch.setattr(Video, "_run", lambda self, *run: iter(()))
    with Video(path) as opened:
        assert opened.info.frames == 60
        assert_frames(opened.read([3, 13, 15, 59]), left, [3, 13, 14, 58])
        for indices in ([14], [13, 14, 15]):
            with pytest.raises(VideoError, match="decoding leaves out 1 frame, first number 14"):
                opened.read(indices)


def test_a_latent_fault_costs_its_own_frame_only(tmp_path, monkeypatch):
    """Where a packet looks sound but does not decode, the others keep their numbers, by seeking and from the start."""
    monkeypatch.setattr(packet_index, "_h264", lambda width, packet: packet_index.FRAME)
    path, sound = damaged(tmp_path, 15)
    with Video(path) as opened:
        assert opened.info.frames == 60
        with pytest.raises(VideoError, match=f"cannot read {path}: only 59 frames decode: Invalid data"):
            opened.read([3, 15])
        for indices in ([14], [0, 13], [25, 59], range(23, 60)):
            assert_frames(opened.read(indices), sound, indices)
        assert_frames(opened.read([16, 25]), playable(path), [15, 24])


# The ending, and arguments of write_video.
KINDS = {
    "h264.mp4": dict(bframes=2, muxing={"movflags": "faststart"}, **factory.X264),
    "h264.mkv": dict(bframes=2, **factory.X264),
    "h264.ts": dict(bframes=2, **factory.X264),
    "h264.flv": dict(bframes=2, **factory.X264),
    "mpeg4.avi": dict(codec="mpeg4", bframes=0, size=(320, 240)),
    "mpeg4_b_frames.avi": dict(codec="mpeg4", size=(320, 240)),
    "mpeg2.mpg": dict(codec="mpeg2video"),
    "mjpeg.avi": dict(codec="mjpeg", pix_fmt="yuvj420p", bframes=0),
    "rv20.rm": dict(codec="rv20", size=(128, 96), bframes=0),
    "vp8.webm": dict(codec="libvpx", **VP8),
    "gif.gif": dict(codec="gif", pix_fmt="rgb8"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_cut_end_keeps_the_frames_that_are_there(tmp_path, name, share):
    path = factory.shorten(factory.write_video(tmp_path / name, **KINDS[name]), share)
    assert assert_exact(path) < 60


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "h264.mkv", "mpeg4.avi", "vp8.webm"])
def test_zeros_in_the_middle(tmp_path, name):
    path = factory.zeros(factory.write_video(tmp_path / name, **KINDS[name]), 0.5, 0.6)
    assert assert_exact(path) < 60


def test_frames_of_an_error_of_the_container(tmp_path, monkeypatch):
    """An error while packets are read ends the video, unless the file system is to blame."""
    path = factory.write_video(tmp_path / "a.mkv", **factory.X264)
    packets = Video._packets
    failure = av.error.InvalidDataError(1, "damaged")

    def broken(demuxer):
        yield from islice(demuxer, 30)
        raise failure

    def failing(self, demuxer):
        return packets(self, broken(demuxer))

    monkeypatch.setattr(Video, "_packets", failing)
    with Video(path) as opened:
        assert opened.info.frames == 30
        assert_frames(opened.read([0, 29, 12]), everything(path), [0, 29, 12])
    failure = av.error.OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(ffmpeg_errors, "explain", lambda path, *_: VideoError(path, "disk", transient=True))
    with pytest.raises(VideoError, match="disk"):
        Video(path)


def of_decoding(packets):
    """Give packets the time stamps of decoding, as when a raw stream is put into a container."""
    for packet in packets:
        packet.pts = packet.dts
    return packets


def half_of_decoding(packets):
    for packet in packets[len(packets) // 2 :]:
        packet.pts = packet.dts + 5
    return packets


@pytest.mark.parametrize(
    "name, arguments",
    {
        "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:bframes=3:keyint=15"},
        "hevc.mkv": {"codec": "libx265", "x265-params": "log-level=none:bframes=3:open-gop=1:keyint=15"},
        "h264.mp4": {"bframes": 3, **factory.X264},
        "h264.mkv": factory.OPEN,
        "h264.flv": {"bframes": 3, **factory.X264},
        "mpeg4.mp4": {"codec": "mpeg4", "size": (192, 128)},
        "mpeg2.ts": {"codec": "mpeg2video"},
    }.items(),
)
def test_numbers_follow_the_decoder_where_time_stamps_are_those_of_decoding(tmp_path, name, arguments):
    path = factory.write_video(tmp_path / name, edit=of_decoding, **arguments)
    assert assert_exact(path) >= 58  # mp4 leaves out what is before time 0


def test_time_stamps_can_be_those_of_decoding_in_a_part(tmp_path):
    path = factory.write_video(tmp_path / "a.mp4", bframes=3, edit=half_of_decoding, **factory.X264)
    assert assert_exact(path) == 60


def without_the_end_of(number):
    """Leave out the second half of a packet's only slice, and put a picture into it that follows."""

    def edit(packets):
        whole, following = bytes(packets[number]), bytes(packets[number + 1])
        cut = whole[: len(whole) // 2]
        damaged = av.Packet(cut + following)
        damaged.stream, damaged.time_base = packets[number].stream, packets[number].time_base
        damaged.pts, damaged.dts = packets[number].pts, packets[number].dts
        damaged.is_keyframe = packets[number].is_keyframe
        return [*packets[:number], damaged, *packets[number + 1 :]]

    return edit


@pytest.mark.parametrize("name", ["begin.ts", "begin.mkv", "begin.mpg", "open_begin.mp4"])
def test_a_beginning_between_key_frames(tmp_path, name):
    arguments = factory.OPEN if "open" in name else {"bframes": 3, **factory.X264}
    arguments = {"codec": "mpeg2video"} if name.endswith("mpg") else arguments
    assert_exact(factory.write_video(tmp_path / name, edit=lambda packets: packets[7:], **arguments))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_key_frame_with_two_first_slices_is_no_start(tmp_path, name):
    """Recordings of networks have such: HEVC's decoder leaves what is missing as it was, without a word."""
    options = {"codec": "libx265", "x265-params": "log-level=none:bframes=0:keyint=12:min-keyint=12:scenecut=0"}
    path = factory.write_video(tmp_path / name, size=(192, 128), edit=without_the_end_of(24), **options)
    assert_exact(path)


def test_packets_without_a_picture_are_passed_over(tmp_path):
    """SEI messages in packets of their own, and in other files empty packets."""
    message = b"\0\0\0\x01\x06\x05\x02ab\x80"

    def edit(packets):
        written = []
        for packet in packets:
            alone = av.Packet(message)
            alone.stream, alone.time_base = packet.stream, packet.time_base
            written += [packet, alone]
        for number, packet in enumerate(written):
            packet.pts = packet.dts = number
        return written

    path = factory.write_video(tmp_path / "a.mkv", bframes=0, edit=edit, **factory.X264)
    with av.open(path) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 120
    assert assert_exact(path) == 60


SOUGHT = {
    "mjpeg.avi": dict(codec="mjpeg", pix_fmt="yuvj420p", bframes=0),
    "mjpeg.mov": dict(codec="mjpeg", pix_fmt="yuvj422p", bframes=0),
    "mjpeg.mkv": dict(codec="mjpeg", pix_fmt="yuvj420p", bframes=0),
    "prores.mov": dict(codec="prores_ks", pix_fmt="yuv422p10le"),
    "dnxhr.mov": dict(codec="dnxhd", pix_fmt="yuv422p", size=(320, 256), frames=20, profile="dnxhr_sq"),
    "ffv1.mkv": dict(codec="ffv1", gop=1),
    "ffv1_groups.mkv": dict(codec="ffv1", gop=10),
    "huffyuv.avi": dict(codec="huffyuv", pix_fmt="yuv422p"),
    "raw.avi": dict(codec="rawvideo"),
    "png.mov": dict(codec="png", pix_fmt="rgb24"),
    "vp8.webm": dict(codec="libvpx", gop=20, **VP8),
    "vp8.mkv": dict(codec="libvpx", gop=20, **VP8),
    "h264.ts": dict(bframes=3, **factory.X264),
    "h264_open.ts": factory.OPEN,
    "hevc.ts": dict(codec="libx265", **factory.X265),
    "h264.flv": dict(bframes=3, **factory.X264),
    "mpeg2.ts": dict(codec="mpeg2video"),
    "mpeg2.mpg": dict(codec="mpeg2video"),
    "mpeg1.mpg": dict(codec="mpeg1video"),
    "mpeg4.avi": dict(codec="mpeg4", bframes=0, size=(192, 128)),
    "interlaced.ts": {"x264-params": "log=-1:tff=1"},
}


@pytest.mark.parametrize("name", SOUGHT)
def test_only_the_groups_of_wanted_frames_are_decoded(tmp_path, monkeypatch, name):
    """Also where the container cannot seek, and from key frame to key frame where all are."""
    if SOUGHT[name].get("codec", "libx264") not in av.codecs_available:
        pytest.skip("this PyAV has no such encoder")
    path = factory.write_video(tmp_path / name, **SOUGHT[name])
    expected = playable(path)
    monkeypatch.setattr(Video, "_from_start", from_start_forbidden)
    assert_exact(path, expected)


@pytest.mark.parametrize("name", ["zeros.mkv", "animation.gif", "false_key_frames.mp4"])
def test_what_is_not_sought_in_is_opened_once_for_counting_size_and_rate(video, monkeypatch, name):
    opened = []
    monkeypatch.setattr(Video, "_open", lambda self, method=Video._open: opened.append(1) or method(self))
    with Video(video(name)) as source:
        assert source.info.width and source.fps
        counted = len(opened)
        source.read([source.frames - 1, 3])
    assert counted <= 2 and len(opened) <= 4  # for packets, for counting; for seeking, for reading


@pytest.mark.parametrize(
    "name, content, cause",
    [
        ("missing.mp4", None, "No such file or directory"),
        ("empty.mp4", b"", "the file is empty"),
        ("garbage.mp4", np.random.RandomState(0).bytes(50_000), ffmpeg_errors.HEADER_LOST),
    ],
)
def test_files_that_are_no_videos(tmp_path, name, content, cause):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        Video(path)
    assert str(caught.value) == f"cannot read {path}: {cause}"
    assert isinstance(caught.value, UserError)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    for path in (tmp_path, tmp_path / "pipe.mp4", "/dev/zero"):
        with pytest.raises(VideoError) as caught:
            Video(path)
        assert str(caught.value) == f"cannot read {path}: not a file, but a folder, pipe or device"


@pytest.mark.parametrize("name", ["image.png", "image.mp4", "image %03d.png"])
def test_an_image_is_a_video_of_one_frame(tmp_path, name):
    picture = factory.pictures(1, 60, 40)[0]
    Image.fromarray(picture).save(tmp_path / name, "PNG")
    with Video(tmp_path / name) as opened:
        assert opened.info.frames == 1
        np.testing.assert_array_equal(opened.read([0, 0]), [picture, picture])


def test_a_file_without_end_takes_no_longer_than_the_timeout(tmp_path):
    path = factory.write_video(tmp_path / "a.mkv", **factory.X264)
    os.truncate(path, 1 << 40)  # zeros, which take no room on disk
    with pytest.raises(VideoError) as caught:
        Video(path, timeout=0.5)
    assert str(caught.value) == f"cannot read {path}: not read within 0.5 s (DATA.READ_TIMEOUT)"


@pytest.mark.parametrize("timeout", [30, 90])
def test_opening_ends_at_the_timeout(video, monkeypatch, timeout):
    """30 s end while packets are read, 90 s while the frames are counted: each takes a second here."""
    monkeypatch.setattr(video_module.time, "monotonic", count().__next__)
    with pytest.raises(VideoError, match=f"not read within {timeout} s"):
        Video(video("stream.ts"), timeout=timeout)
    with Video(video("stream.ts"), timeout=0) as opened:
        assert opened.info.frames == 60


def test_a_long_video_is_no_slow_one(video, monkeypatch):
    """The timeout begins anew after so many packets, but a video without end ends nevertheless."""
    monkeypatch.setattr(video_module.time, "monotonic", count().__next__)
    monkeypatch.setattr(video_module, "STEPS", 20)
    with Video(video("stream.ts"), timeout=90) as opened:
        assert len(opened.read(range(60))) == 60
    monkeypatch.setattr(video_module, "LONGEST", 2)
    with pytest.raises(VideoError, match="not read within 90 s"):
        Video(video("stream.ts"), timeout=90)


@pytest.mark.parametrize("name", ["long_gop.mkv", "mpeg4.avi"])
def test_each_read_has_the_timeout_for_itself(video, monkeypatch, name):
    now, rgb = [0.0], Video._to_rgb

    def slow(*arguments):
        now[0] += 1
        return rgb(*arguments)

    monkeypatch.setattr(video_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Video, "_to_rgb", slow)
    with Video(video(name), timeout=5) as opened:
        for _ in range(3):
            assert len(opened.read(range(0, 60, 20))) == 3
        with pytest.raises(VideoError, match="not read within 5 s"):
            opened.read(range(0, 60, 4))
        assert len(list(opened.decode_all())) == 60  # each frame of which has it


@pytest.mark.parametrize("name, cover", [("sound.mp4", False), ("sound.mkv", True)])
def test_sound_alone_is_no_video_not_even_with_a_cover(tmp_path, name, cover):
    path = factory.write_audio(tmp_path / name, cover)
    with pytest.raises(VideoError, match=f"cannot read {path}: no video stream"):
        probe(path)


def test_header_lost(tmp_path):
    path = factory.shorten(factory.write_video(tmp_path / "a.mov", **factory.X264), 0.5)
    with pytest.raises(
        VideoError, match="its index .moov box. is missing or incomplete: the recording or copy was cut off"
    ):
        Video(path)


def test_no_frame_decodes(tmp_path):
    path = factory.damage(factory.write_video(tmp_path / "a.mp4", frames=1, **factory.X264), 0)
    with pytest.raises(VideoError, match=f"cannot read {path}: no frame decodes: Invalid data"):
        Video(path)


def test_any_file_name(tmp_path, monkeypatch):
    name = "-a:b %05d é.mp4"
    factory.write_video(tmp_path / "a.mp4", frames=3, **factory.X264).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_frames(name, [0, 2])) == 2


@pytest.mark.parametrize("name", ["b_frames.mp4", "stream.ts", "zeros.mkv", "animation.gif"])
def test_a_video_is_freed_at_once(video, name):
    """Nothing that it holds refers to it: Python looks for such circles late, while decoders need much memory."""
    gc.disable()
    try:
        with Video(video(name)) as opened:
            opened.read([opened.frames - 1, 0])
        freed = weakref.ref(opened)
        del opened
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_files_are_closed_and_no_threads_stay(video, tmp_path):
    def held():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    (tmp_path / "text.mp4").write_text("no video")
    good = [video(name) for name in ("b_frames.mp4", "mpeg4_b_frames.avi", "intra_refresh.mp4")]
    lost = factory.write_video(tmp_path / "lost.mp4", codec="mpeg4", bframes=0, size=(192, 128))
    factory.lose_mpeg4(lost, 14)
    bad = [lost, tmp_path / "text.mp4", factory.write_audio(tmp_path / "sound.mp4")]
    before = held()
    errors = []  # with their tracebacks, which keep alive what the failed calls held
    for path in good + bad:
        for number in (14, 99):
            try:
                read_frames(path, [number], short_side=32)
            except (VideoError, ValueError) as error:
                errors.append(error)
    assert len(errors) == len(good) + 2 * len(bad)
    assert held() == before
    with Video(good[0]) as opened:  # nor are there any before it is closed
        opened.read(range(60))
        assert held()[1] == before[1]


@pytest.mark.parametrize(
    "module, cause",
    [(None, "import of torchcodec halted"), (SimpleNamespace(ffmpeg_major_version=None), "no FFmpeg libraries")],
)
def test_torchcodec_that_cannot_be_used(monkeypatch, module, cause):
    monkeypatch.setitem(sys.modules, "torchcodec", module)
    with pytest.raises(UserError, match=rf"{cause}.*pip install slowfast_uniformer\[torchcodec\].*ffmpeg"):
        decoder_class("torchcodec")


@pytest.fixture
def torchcodec():
    pytest.importorskip("torchcodec", exc_type=Exception)
    try:
        return decoder_class("torchcodec")
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mkv", "variable_rate.mp4", "vp9.webm", "turned_90.mp4"])
def test_torchcodec_reads_the_same(video, torchcodec, name):
    with torchcodec(video(name)) as opened, Video(video(name)) as ours:
        for fact in ("frames", "width", "height", "rotation", "codec"):
            assert getattr(opened.info, fact) == getattr(ours.info, fact)
        np.testing.assert_array_equal(opened.read([59, 0, 7, 7]), ours.read([59, 0, 7, 7]))
        assert opened.read([3], short_side=32).shape == ours.read([3], short_side=32).shape


def test_torchcodec_fails_as_clearly(tmp_path, torchcodec):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text.mp4: a text, not a video"):
        torchcodec(tmp_path / "text.mp4")
    with pytest.raises(VideoError, match="pipe or device"):
        torchcodec(tmp_path)
    with pytest.raises(VideoError, match="No such file"):
        torchcodec(tmp_path / "missing.mp4")
