"""Small videos for tests, good and damaged, made on the spot with PyAV. `VIDEOS` says what there is."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image

FPS = 25
CUT = 23  # frames between changes of scene


@lru_cache
def pictures(frames: int, width: int, height: int) -> list[np.ndarray]:
    """A texture that drifts, with a cut now and then: no two alike, and motion for frames to refer to."""
    texture = np.random.RandomState(0).randn(height + 3 * frames, width + 2 * frames, 3).cumsum(0).cumsum(1)
    texture = ((texture - texture.min()) / np.ptp(texture) * 255).astype(np.uint8)
    scenes = [texture, 255 - texture, texture[::-1, ::-1]]
    places = ((scenes[n // CUT % 3], 3 * n, 2 * n) for n in range(frames))
    return [np.ascontiguousarray(scene[y : y + height, x : x + width]) for scene, y, x in places]


def write_video(
    path: Path,
    codec: str = "libx264",
    frames: int = 60,
    size: tuple[int, int] = (96, 64),
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    bframes: int = 2,
    times: Sequence[int] | None = None,
    edit: Callable[[list[av.Packet]], list[av.Packet]] = list,
    muxing: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Encode `pictures`, shown at `times` (in 1/FPS s, by default one after the other); `edit` may change the
    packets before they are written, `options` go to the encoder, `muxing` to what writes the file."""
    if muxing is None and path.suffix == ".mp4":
        muxing = {"avoid_negative_ts": "disabled", "movflags": "faststart"}
    with av.open(path, "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, bframes
        stream.codec_context.time_base = Fraction(1, FPS)
        packets = []
        for number, picture in enumerate(pictures(frames, *size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, FPS)
            packets += stream.encode(frame)
        for packet in edit(packets + stream.encode(None)):
            container.mux(packet)
    return path


def write_audio(path: Path, cover: bool = False) -> Path:
    """A file of sound alone, with a picture attached if there is a `cover`."""
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        if cover:
            image = BytesIO()
            Image.fromarray(pictures(1, 32, 32)[0]).save(image, "JPEG")
            container.add_attachment("cover.jpg", "image/jpeg", image.getvalue())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rotate(path: Path, degrees: int) -> Path:
    """Write into an mp4 that it is to be shown turned clockwise by 90, 180 or 270 degrees."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    return display_matrix(path, cosine, sine, -sine, cosine)


def display_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write into an mp4 that the pixel at (x, y) is to be shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # version, times, track, duration, layer, volume come before it
    a, b, c, d = (round(number * (1 << 16)) for number in (a, b, c, d))
    struct.pack_into(">5i", data, matrix, a, b, 0, c, d)
    path.write_bytes(data)
    return path


def shorten(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damage(path: Path, number: int, share: float = 0.0) -> Path:
    """Overwrite packet `number` (in the order of decoding) with zeros, all but the first `share` of it."""
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        start, end = packet.pos + int(share * packet.size), packet.pos + packet.size
    data = bytearray(path.read_bytes())
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    return path


def zeros(path: Path, start: float, end: float) -> Path:
    """Overwrite the bytes between these shares of the file with zeros."""
    data = bytearray(path.read_bytes())
    first, last = int(start * len(data)), int(end * len(data))
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def wrong_count(path: Path) -> Path:
    """Have both headers of an AVI file say that it holds 1000 frames."""
    data = bytearray(path.read_bytes())
    for header, offset in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", data, data.index(header) + offset, 1000)
    path.write_bytes(data)
    return path


def foreign_tags(path: Path) -> Path:
    """Put bytes that are no UTF-8 into the name of the writing program."""
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xe9\xff\xfe\xe8"))
    return path


def append_other_size(path: Path) -> Path:
    """Continue an MPEG-TS file by one of other size, whose time stamps begin anew."""
    other = write_video(path.with_name("other.ts"), frames=10, size=(128, 96), **X264)
    path.write_bytes(path.read_bytes() + other.read_bytes())
    return path


def lose_mpeg4(path: Path, number: int) -> Path:
    """Turn packet `number`, not a key frame, into one that says that it holds no picture."""
    with av.open(path) as container:
        start = [packet for packet in container.demux(video=0) if packet.size][number].pos
    data = bytearray(path.read_bytes())
    # After the start code: type (2 bits), seconds (1, if none), marker (1), time (5 for FPS), marker (1).
    assert data[start : start + 4] == b"\0\0\1\xb6" and data[start + 5] & 0x20
    data[start + 5] &= ~0x20
    path.write_bytes(data)
    return path


def false_key_frames(packets: list[av.Packet]) -> list[av.Packet]:
    """Call every fifth packet a key frame, whatever it is."""
    for packet in packets[::5]:
        packet.is_keyframe = True
    return packets


def shift(frames: int) -> Callable[[list[av.Packet]], list[av.Packet]]:
    """Begin that many frames before time 0; an mp4 gets an edit list that leaves them out."""

    def earlier(packets: list[av.Packet]) -> list[av.Packet]:
        for packet in packets:
            packet.pts, packet.dts = packet.pts - frames, packet.dts - frames
        return packets

    return earlier


def same_times(packets: list[av.Packet]) -> list[av.Packet]:
    """Give every tenth packet the time stamp of the one before it."""
    for earlier, packet in zip(packets[9::10], packets[10::10], strict=False):
        packet.pts = packet.dts = earlier.pts
    return packets


def shown_late(packets: list[av.Packet]) -> list[av.Packet]:
    """Give one packet a time stamp that lies behind many that follow it."""
    packets[20].pts += 30
    return packets


def then_larger(packets: list[av.Packet]) -> list[av.Packet]:
    """Continue a VP9 stream by frames of another size."""
    encoder = av.CodecContext.create("libvpx-vp9", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.options = 128, 96, "yuv420p", VP9
    encoder.time_base = Fraction(1, FPS)
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures(10, 128, 96)]
    for number, frame in enumerate(frames, len(packets)):
        frame.pts = number
    more = [packet for frame in [*frames, None] for packet in encoder.encode(frame)]
    for packet in more:
        packet.stream = packets[0].stream
    return packets + more


def repeat_before(packets: list[av.Packet]) -> list[av.Packet]:
    """After each tenth MPEG-4 packet one that says "no new picture", as encoders of a fixed rate write."""
    written = []
    for packet in packets:
        if len(written) % 10 == 9:
            written.append(av.Packet(b"\x00\x00\x01\xb6\x50\x5f"))
            written[-1].stream, written[-1].time_base = packet.stream, packet.time_base
        written.append(packet)
    for number, packet in enumerate(written):
        packet.pts = packet.dts = number
    return written


X264 = {"x264-params": "log=-1"}
X265 = {"x265-params": "log-level=none"}
OPEN = {"gop": 20, "bframes": 4, "x264-params": "log=-1:open-gop=1"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "16", "auto-alt-ref": "1"}

# What there is of each: name of the file, and arguments of write_video. The names say what is special.
VIDEOS = {
    "b_frames.mp4": dict(bframes=3, **X264),
    "long_gop.mkv": dict(gop=250, bframes=4, **X264),
    "short_gop.mov": dict(gop=2, bframes=1, **X264),
    "open_gop.mkv": OPEN,
    "open_gop_first.mp4": dict(edit=lambda packets: packets[42:], **OPEN),
    "no_key_frame_first.mkv": dict(edit=lambda packets: packets[5:], **X264),
    "intra_refresh.mp4": {"gop": 20, "bframes": 0, "x264-params": "log=-1:intra-refresh=1:scenecut=0"},
    "false_key_frames.mp4": dict(bframes=0, edit=false_key_frames, **X264),
    "false_key_frames_mpeg4.mp4": dict(codec="mpeg4", size=(192, 128), bframes=0, edit=false_key_frames),
    "edit_list.mp4": dict(edit=shift(5), **X264),
    "variable_rate.mp4": dict(times=[n * n // 7 + n for n in range(60)], **X264),
    "one_frame.mp4": dict(frames=1, **X264),
    "three_frames.mp4": dict(frames=3, **X264),
    "odd_size.mp4": dict(size=(97, 63), pix_fmt="yuv444p", **X264),
    "stream.ts": dict(**X264),
    "h264.avi": dict(**X264),
    "hevc.mp4": dict(codec="libx265", **X265),
    "hevc_layers.mkv": {"codec": "libx265", "x265-params": "log-level=none:temporal-layers=3:bframes=8"},
    "hevc_leading.mp4": {"codec": "libx265", "x265-params": "log-level=none:radl=2:bframes=4:open-gop=0"},
    "vp9.webm": dict(codec="libvpx-vp9", gop=30, **VP9),
    "vp9_odd_size.webm": dict(codec="libvpx-vp9", size=(97, 63), gop=30, **VP9),
    "mpeg4.avi": dict(codec="mpeg4", bframes=0),
    "mpeg4_b_frames.avi": dict(codec="mpeg4"),
    "mpeg4_b_frames.mp4": dict(codec="mpeg4", size=(192, 128)),
    "mpeg4_no_new_picture.avi": dict(codec="mpeg4", bframes=0, edit=repeat_before),
    "mpeg4_no_new_picture.mkv": dict(codec="mpeg4", bframes=0, edit=repeat_before),
    "av1.mp4": {"codec": "libsvtav1", "gop": 30, "preset": "8", "svtav1-params": "hierarchical-levels=4"},
    "mpeg2.mpg": dict(codec="mpeg2video"),
    "turned_90.mp4": dict(**X264),
    "turned_180.mp4": dict(**X264),
    "turned_270.mp4": dict(**X264),
    "cut_off.webm": dict(codec="libvpx-vp9", gop=30, **VP9),
    "fragmented.mp4": dict(muxing={"movflags": "frag_keyframe+empty_moov"}, **X264),
    "live.mkv": dict(muxing={"live": "1"}, **X264),
    "no_times.h264": dict(**X264),
    "same_times.mkv": dict(bframes=0, edit=same_times, **X264),
    "shown_late.mkv": dict(bframes=0, edit=shown_late, **X264),
    "wrong_count.avi": dict(codec="mpeg4", bframes=0),
    "foreign_tags.mp4": dict(**X264),
    "wide_pixels.mp4": {"x264-params": "log=-1:sar=2/1"},
    "ten_bit.mp4": dict(pix_fmt="yuv420p10le", **X264),
    "interlaced.mp4": {"x264-params": "log=-1:interlaced=1"},
    "interlaced.mpg": dict(codec="mpeg2video", flags="+ildct+ilme"),
    "alpha.mov": dict(codec="png", pix_fmt="rgba"),
    "alpha.webm": dict(codec="libvpx-vp9", pix_fmt="yuva420p", gop=30, **VP9),
    "two_sizes.ts": dict(frames=20, **X264),
    "two_sizes.webm": dict(codec="libvpx-vp9", frames=20, edit=then_larger, **VP9),
    "zeros.mkv": dict(**X264),
    "animation.gif": dict(codec="gif", pix_fmt="rgb8"),
}

# What is done to a file after it is written.
AFTERWARDS = {
    "turned_90.mp4": partial(rotate, degrees=90),
    "turned_180.mp4": partial(rotate, degrees=180),
    "turned_270.mp4": partial(rotate, degrees=270),
    "cut_off.webm": partial(shorten, share=0.6),
    "wrong_count.avi": wrong_count,
    "foreign_tags.mp4": foreign_tags,
    "two_sizes.ts": append_other_size,
    "zeros.mkv": partial(zeros, start=0.5, end=0.6),
}


def make(folder: Path, name: str) -> Path | None:
    """The video of that name, or None if this PyAV cannot encode it."""
    arguments = VIDEOS[name]
    if arguments.get("codec", "libx264") not in av.codecs_available:
        return None
    path = write_video(folder / name, **arguments)
    return AFTERWARDS.get(name, Path)(path)


def write_timed_video(path: Path, times: Sequence[Fraction], codec: str = "libx264", gop: int = 12) -> Path:
    """Small frames, the number of each in its brightness, shown at `times` in seconds."""
    unit = Fraction(1, 90000)
    with av.open(path, "w", options={"video_track_timescale": "90000"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=30, options={"x264-params": "log=-1"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.time_base = gop, unit
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 32), 16 + 5 * (number % 44), np.uint8), "yuv420p")
            frame.pts, frame.time_base = round(time / unit), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_times(rate: str, frames: int = 120) -> list[Fraction]:
    """Times of frames at 25, 29.97 or 60 per second, or at a rate that varies."""
    if rate == "variable":
        steps = [Fraction(number * 7 % 5 + 1, 90) for number in range(frames)]
        return [sum(steps[:number], Fraction(0)) for number in range(frames)]
    distance = {"25": Fraction(1, 25), "29.97": Fraction(1001, 30000), "60": Fraction(1, 60)}[rate]
    return [number * distance for number in range(frames)]
