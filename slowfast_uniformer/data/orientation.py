"""How a video is to be turned for display: the display matrix of its container, or of its H.264 or HEVC stream."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np

DISPLAY_ORIENTATION = 47  # type of the SEI message (ITU-T H.264, D.1.27; H.265, D.2.17)


class Orientation(NamedTuple):
    """First mirrored left to right if `mirrored`, then turned counterclockwise by `rotation` degrees."""

    rotation: int = 0
    mirrored: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The picture (H, W, C), a view of the given one, as it is shown."""
        return np.rot90(picture[:, ::-1] if self.mirrored else picture, self.rotation // 90)


def from_matrix(matrix: bytes) -> Orientation:
    """The nearest of the eight orientations without a remainder.

    Args:
        matrix: FFmpeg's display matrix: nine 32-bit numbers a, b, u, c, d, v, x, y, w, where a pixel at (p, q) is
            shown at (a p + c q + x, b p + d q + y). Its scale and offset do not count. One that has no inverse, such
            as all zeros, says nothing.
    """
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    determinant = a * d - b * c
    if determinant == 0:
        return Orientation()
    sign = 1 if determinant > 0 else -1
    # Its scalar products with the matrices of the four rotations, each after the mirror if there is one.
    likeness = {0: sign * a + d, 90: c - sign * b, 180: -sign * a - d, 270: sign * b - c}
    return Orientation(max(likeness, key=likeness.__getitem__), sign < 0)


def of_frame(frame: av.VideoFrame) -> Orientation:
    """The orientation that a decoded frame carries: the stream's own before the container's, as FFmpeg's players."""
    while True:
        try:
            return next(
                (from_matrix(bytes(d)) for d in frame.side_data if d.type.name == "DISPLAYMATRIX"), Orientation()
            )
        except ValueError as error:  # "31 is not a valid Type": PyAV does not know all that FFmpeg attaches (EXIF)
            frame = _without(frame, int(str(error).split()[0]))


def _without(frame: av.VideoFrame, side_data: int) -> av.VideoFrame:
    """The frame without its side data of a type."""
    graph = av.filter.Graph()
    graph.threads = 1
    size = {"width": frame.width, "height": frame.height, "format": frame.format, "time_base": frame.time_base}
    nodes = graph.add_buffer(**size), graph.add("sidedata", f"mode=delete:type={side_data}"), graph.add("buffersink")
    nodes[0].link_to(nodes[1])
    nodes[1].link_to(nodes[2])
    graph.configure()
    graph.push(frame)
    return graph.pull()


def in_packet(packet: av.Packet) -> bool:
    """Whether an H.264 or HEVC packet itself says how to show its picture; packets after it need not."""
    codec = packet.stream.codec_context
    if codec.name not in ("h264", "hevc"):
        return False
    hevc = codec.name == "hevc"
    first_after_slices, message, header = (32, 39, 2) if hevc else (6, 6, 1)
    for unit in _nal_units(bytes(packet), codec.extradata or b"", 21 if hevc else 4):
        kind = unit[0] >> 1 & 63 if hevc else unit[0] & 31
        if kind < first_after_slices:
            return False  # a slice: messages about a picture come before it
        if kind == message and DISPLAY_ORIENTATION in _messages(unit[header:]):
            return True
    return False


def _nal_units(data: bytes, extradata: bytes, length_at: int) -> Iterator[bytes]:
    """The parts of a packet, between start codes or, as in mp4, after their length, whose own is in the extradata."""
    if extradata[:1] != b"\1" or len(extradata) <= length_at:
        yield from filter(None, data.split(b"\0\0\1")[1:])
        return
    width, at = (extradata[length_at] & 3) + 1, 0
    while at + width < len(data):
        start = at + width
        at = start + int.from_bytes(data[at:start])
        if at > start:
            yield data[start:at]


def _messages(unit: bytes) -> Iterator[int]:
    """Types of the SEI messages in a unit. Type and length are sums of bytes up to the first that is not 255."""
    data, at = unit.replace(b"\0\0\3", b"\0\0"), 0
    while at + 2 < len(data):
        numbers = [0, 0]
        for part in range(2):
            while data[at : at + 1] == b"\xff":
                numbers[part], at = numbers[part] + 255, at + 1
            numbers[part], at = numbers[part] + int.from_bytes(data[at : at + 1]), at + 1
        yield numbers[0]
        at += numbers[1]
