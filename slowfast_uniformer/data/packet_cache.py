"""What is remembered of the packets of long videos in this process.

A list names many segments of a recording. Each is read by itself, and to see which packet holds which frame takes
reading the whole file: two seconds for an hour.
"""

import os
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from slowfast_uniformer.data.packet_index import Packet

LEAST, MOST = 2000, 2_000_000  # packets of a video that is remembered, and of all; each takes 18 bytes
_NONE = -(2**63)  # no time stamp, as FFmpeg says it
Key = tuple[str, int, int, int]
_Arrays = tuple[array, array, bytes, bytes]  # pts, dts, flags and content of the packets


class PacketCache:
    """Packets of the videos that were opened last, as arrays."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, tuple[_Arrays, bool]] = OrderedDict()
        self._size = 0

    @staticmethod
    def key(path: str, stream: int) -> Key:
        """A file in its present state, and the number of a stream. OSError if it is not there."""
        status = os.stat(path)
        return os.path.abspath(path), status.st_size, status.st_mtime_ns, stream

    def get(self, key: Key) -> tuple[list[Packet], bool] | None:
        """The packets, and what was noted with them."""
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        (pts, dts, flags, content), note = self._known[key]
        packets = [
            Packet(
                None if shown == _NONE else shown,
                None if decoded == _NONE else decoded,
                bool(flag & 1),
                bool(flag & 2),
                bool(flag & 4),
                what,
            )
            for shown, decoded, flag, what in zip(pts, dts, flags, content, strict=True)
        ]
        return packets, note

    def put(self, key: Key, packets: Sequence[Packet], note: bool) -> None:
        """Remember packets, of a video that is long enough; the videos asked for the longest ago are forgotten."""
        if not LEAST <= len(packets) <= MOST or key in self._known:
            return
        arrays = (
            array("q", (_NONE if packet.pts is None else packet.pts for packet in packets)),
            array("q", (_NONE if packet.dts is None else packet.dts for packet in packets)),
            bytes(packet.key | packet.discarded << 1 | packet.damaged << 2 for packet in packets),
            bytes(packet.content for packet in packets),
        )
        self._known[key] = arrays, note
        self._size += len(packets)
        while self._size > MOST:
            _, ((pts, *_), _) = self._known.popitem(last=False)
            self._size -= len(pts)
