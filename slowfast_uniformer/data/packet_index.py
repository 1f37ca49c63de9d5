"""Which packet of a video stream holds which frame, and where decoding can begin: all that is known without decoding.

Packets are numbered in the order of decoding, frames in the order of display. `pictures` looks into a packet,
`PacketIndex` maps the numbers to each other.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import sub
from struct import Struct
from typing import NamedTuple

import av

# What a packet holds. One frame; one that is not shown (others refer to it); one that is shown before an earlier
# packet's (B-frame); a frame in two halves (fields); or anything else.
FRAME, HIDDEN, BACKWARD, FIELDS, ODD = range(5)
MPEG = {"mpeg1video", "mpeg2video", "mpeg4"}
START_CODE, UNIT = b"\0\0\1", Struct(">I3B")
SLICE = re.compile(b"\0\0\1([\1-\xaf])")
VERIFIED = 24  # packets at the beginning whose decoding is compared with the index where that is not usual
EMPTY_MPEG4 = 19  # most bytes of an MPEG-4 packet without a frame: the one before holds it, or there is none


class Packet(NamedTuple):
    """What is remembered of a packet: time stamps, key frame by the container's word, left out by an edit list,
    damaged by the demuxer's word, content."""

    pts: int | None
    dts: int | None
    key: bool
    discarded: bool
    damaged: bool
    content: int


class PacketIndex:
    """The frame of each packet, and the packets to decode for some frames.

    Args:
        packets: All packets of the stream.
        order: Positions in `packets` in the order of display.
        codec: FFmpeg's name of the codec.
    """

    def __init__(self, packets: Sequence[Packet], order: Sequence[int], codec: str = ""):
        self.packets = packets
        self.before = int(codec == "ffv1")  # packets needed before: the last frame fills what is damaged
        self.order = order
        self.rank = dict(zip(order, range(len(order)), strict=True))  # of all packets, also of those not shown
        self.position = {p.pts: at for at, p in enumerate(packets)}
        self.distinct = len(self.position) == len(packets) and None not in self.position
        self.keys = [at for at, packet in enumerate(packets) if packet.key]
        self.hide(at for at, p in enumerate(packets) if p.discarded or p.content == HIDDEN)

    def hide(self, positions: Iterable[int]) -> None:
        """Note packets whose frames are not shown; only the others are numbered."""
        hidden = {*positions}
        self.order = [at for at in self.order if at not in hidden]
        self.number = {at: number for number, at in enumerate(self.order)}

    def confirm(self, first: int, last: int, decoded: Sequence[int], lossy: bool) -> bool:
        """Whether decoding packets `first` to `last` gave what the index says.

        Args:
            decoded: The packets whose frames were given, in that order.
            lossy: Whether packets can have no frame, which is then noted.
        """
        begin = self.rank[first] if first else -1  # what is shown before a key frame can refer to others
        decoded = [at for at in decoded if self.rank[at] >= begin]
        expected = [at for at in self.order if first <= at <= last and self.rank[at] >= begin]
        if lossy and (not first or first in decoded):
            missing = {*expected} - {*decoded}
            self.hide(missing)
            expected = [at for at in expected if at not in missing]
        return decoded == expected

    def spans(self, usual: bool, whole: bool) -> list[tuple[int, int, bool]]:
        """What is to be decoded to `confirm` the index: (first packet, last packet, whether some can have no frame).

        Args:
            usual: Whether a beginning with a key frame needs no confirmation.
            whole: Whether the last packet is known not to be cut off.
        """
        last, keys = len(self.packets) - 1, self.keys or [0]
        head = min(VERIFIED, last)
        lossy = keys[0] > 0 or self.rank[0] > 0  # the first frames refer to frames from before the first key frame
        if lossy:
            head = keys[1] - 1 if len(keys) > 1 else last
        if not whole:
            if keys[-1] <= head:
                return [(0, last, True)]
            return [(0, head, lossy), (keys[-1], last, True)]
        return [(0, head, lossy)] if lossy or not usual else []

    def start(self, at: int) -> int:
        """The packet to decode from for the frame of packet `at`: a key frame not shown after it, or the first."""
        if self.packets[at].damaged:
            return 0  # what it lacks is filled from other frames
        at = max(at - self.before, 0)
        for key in reversed(self.keys[: bisect_right(self.keys, at)]):
            if self.rank[key] <= self.rank[at]:
                return key
        return 0

    def runs(self, numbers: Iterable[int]) -> list[tuple[int, int, set[int]]]:
        """Runs of packets to decode for frames in increasing order, with a seek before each: (first packet, last
        packet, packets of wanted frames). Runs neither overlap nor touch."""
        runs: list[tuple[int, int, set[int]]] = []
        for at in (self.order[number] for number in numbers):
            start, end, wanted = self.start(at), at, {at}
            if runs and start <= runs[-1][1] + 1:
                start, last, earlier = runs.pop()
                end, wanted = max(end, last), wanted | earlier
            runs.append((start, end, wanted))
        return runs


def display_order(packets: Sequence[Packet], codec: str, reorders: bool, depth: int) -> list[int] | None:
    """The positions of packets, one frame each, in the order that a decoder shows them; None if it is not known.

    Args:
        packets: All packets of the stream.
        codec: FFmpeg's name of the codec.
        reorders: Whether the codec can show frames in another order than that of decoding.
        depth: By how many frames this stream's header says that it does at most.
    """
    in_order, times = list(range(len(packets))), [p.pts for p in packets]
    backward = [p.content == BACKWARD for p in packets]
    if not reorders or (codec in MPEG and not any(backward)):
        return in_order
    if codec in MPEG:
        return _held_back(backward) if depth else None
    if None not in times and len({*times}) == len(times):
        by_time = sorted(in_order, key=times.__getitem__)
        delay = max(map(sub, by_time, in_order))  # places between decoding and display
        latest, plausible = times[0], True
        for time, at_once in zip(times, backward, strict=True):
            if time >= latest:
                latest = time
                plausible = plausible and not at_once  # a B-frame after all others: it is the time of decoding
        # Without a delay they can be that, too, where the header says that there is one.
        if plausible and (0 < delay <= depth or delay == depth == 0):
            return by_time
    return in_order if codec == "h264" and not any(backward) else None


def _held_back(backward: Iterable[bool]) -> list[int]:
    """The order of MPEG-1, 2 and 4: a B-frame is shown at once, another frame when the next such one is decoded."""
    order, held = [], []
    for at, at_once in enumerate(backward):
        if at_once:
            order.append(at)
        else:
            order.extend(held)
            held = [at]
    return order + held


def content_reader(codec: str, extradata: bytes) -> Callable[[av.Packet], int]:
    """A function that tells what a packet holds, from its first bytes or its parts."""
    if codec in ("h264", "hevc"):
        # In mp4 and mkv a length stands before each part (NAL unit), elsewhere a start code.
        at = 4 if codec == "h264" else 21
        width = (extradata[at] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > at else 0
        return partial(_h264 if codec == "h264" else _hevc, width)
    if codec in WHAT_IS_USUAL:
        return partial(WHAT_IS_USUAL[codec], set())
    return CONTENTS.get(codec, lambda packet: FRAME)


def _units(width: int, packet: av.Packet) -> Iterator[tuple[int, int, int, int]]:
    """Length (0 if it is broken) and first three bytes of each NAL unit of a packet. Before each stands its length in
    `width` bytes, or a start code (0)."""
    at, end = 0, packet.size
    while width == 4 and at < end - 6:
        unit = UNIT.unpack_from(packet, at)
        yield unit
        if unit[0] == 0:
            return
        at += 4 + unit[0]
    data = bytes(packet) if at < end else b""
    while width and at < end:
        size = int.from_bytes(data[at : at + width], "big")
        yield size, *data[at + width : at + width + 3].ljust(3, b"\0")
        if size == 0:
            return
        at += width + size
    if width and at > end:
        yield 0, 0, 0, 0
    at = -1 if width else data.find(START_CODE)
    while 0 <= at < end - 5:
        yield 1, *data[at + 3 : at + 6]
        at = data.find(START_CODE, at + 3)


def _h264(width: int, packet: av.Packet) -> int:
    slices, backward = 0, False
    for size, header, first, _ in _units(width, packet):
        if size == 0 or header == 0:
            return ODD
        if first & 0x80 and header & 31 in (1, 2, 5):  # the slice that begins with the first macroblock
            slices += 1
            # Its type is the next number, in Exp-Golomb code: 010 or 00111 for B.
            backward = backward or first & 0x70 == 0x20 or first & 0x7C == 0x1C
    if slices == 1:
        return BACKWARD if backward else FRAME
    return FIELDS if slices == 2 else ODD


def _hevc(width: int, packet: av.Packet) -> int:
    slices = 0
    for size, header, layer, first in _units(width, packet):
        kind = header >> 1
        if size == 0 or header == layer == 0 or kind in (36, 37):  # after an end of sequence, frames can be left out
            return ODD
        slices += kind < 32 and layer < 8 and not header & 1 and first & 0x80 == 0x80
    return FRAME if slices == 1 else ODD


def _mpeg4(packet: av.Packet) -> int:
    data = bytes(packet)
    at = data.find(b"\0\0\1\xb6")
    if not 0 <= at < len(data) - 4 or len(data) <= EMPTY_MPEG4:
        return ODD
    return BACKWARD if data[at + 4] >> 6 == 2 else FRAME


def _mpeg12(usual_rows: set[bytes], packet: av.Packet) -> int:
    """A frame that lacks rows (slices) that others have is filled from the frame before."""
    data = bytes(packet)
    at, count = data.find(b"\0\0\1\0"), data.count(b"\0\0\1\0")
    rows = {*SLICE.findall(data)}
    if not usual_rows:
        usual_rows |= rows
    if count not in (1, 2) or at + 5 >= len(data) or rows != usual_rows:
        return ODD
    return FIELDS if count == 2 else BACKWARD if data[at + 5] >> 3 & 7 == 3 else FRAME


def _vp8(packet: av.Packet) -> int:
    data = bytes(packet)
    if not data[0] & 1 and data[3:6] != b"\x9d\x01\x2a":  # a key frame without its start code
        return ODD
    return FRAME if data[0] & 0x10 else HIDDEN


def _vp9(packet: av.Packet) -> int:
    """Several frames in one packet have an index at its end, and one of them is shown."""
    data = memoryview(packet)
    bits = data[0] << (data[0] & 0x30 == 0x30)  # profile 3 has one bit more
    if data[0] >> 6 != 2:  # the mark of a frame
        return ODD
    return FRAME if bits & 0x0A or data[-1] >> 5 == 6 else HIDDEN


def _mjpeg(tables: set[bool], packet: av.Packet) -> int:
    """A frame can be decoded alone if it has its own tables; of Huffman tables there are default ones."""
    data, at, found = bytes(packet), 2, set()
    while data[at : at + 1] == b"\xff" and 0xDA not in found:
        found.add(data[at + 1] if at + 3 < len(data) else 0)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    tables.add(0xC4 in found)
    return FRAME if data[:2] == b"\xff\xd8" and {0xDA, 0xDB} <= found and len(tables) == 1 else ODD


# Functions of what other packets of the stream have, and a packet.
WHAT_IS_USUAL = {"mpeg1video": _mpeg12, "mpeg2video": _mpeg12, "mjpeg": _mjpeg}
CONTENTS = {"mpeg4": _mpeg4, "vp8": _vp8, "vp9": _vp9}
