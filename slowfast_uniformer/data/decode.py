"""Frames of a video file by number, with PyAV: bit for bit those of decoding the whole file and counting.

Demuxing once, without decoding, gives each packet's time stamps, the key frames and what a packet holds
(packet_index.py). Reading goes to the key frame before a wanted frame, skips the decoding of frames that no other
refers to, and converts wanted frames only. Where packets do not tell which frame each holds, or hold anything odd, the
file is decoded from the start and counted.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cached_property
from itertools import chain, dropwhile, pairwise

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import ArrayLike

from slowfast_uniformer.data import color, ffmpeg_errors, orientation, streams
from slowfast_uniformer.data.packet_cache import PacketCache
from slowfast_uniformer.data.packet_index import FIELDS, MPEG, ODD, Packet, PacketIndex, content_reader, display_order
from slowfast_uniformer.data.video import FOLDER_FPS, READ_TIMEOUT, OpenFile, VideoError, VideoInfo, VideoSource
from slowfast_uniformer.wording import counted

# Demuxers, by the first of their names, that find packets by time. In others all packets before are read, but not
# decoded: AVI, for one, can seek to another packet than its time stamps say.
SEEKABLE = {"mov", "matroska"}
UNMARKED_ENDS = {"mpegts", "mpeg"}  # containers that do not tell that the last packet is cut off
# Codecs with at most one shown frame in each packet, and whether decoding can skip non-reference frames: in AV1 that
# changes the others. Codecs of key frames only are such, too.
SKIPPABLE = {"h264": True, "hevc": True, "vp9": True, "mpeg4": True, "mpeg1video": True, "mpeg2video": True}
SKIPPABLE |= {"av1": False, "vp8": False, "ffv1": False, "png": False}
USUAL = {"h264", "hevc", "vp9", "mpeg4", "av1"}  # in seekable containers their index needs no confirmation
REORDERED = 16  # most frames by which a frame is shown before one that it refers to (H.264 and HEVC)
_packet_cache = PacketCache()


class Video(VideoSource):
    """A video file decoded by PyAV.

    Decoding is single-threaded: DataLoader workers run in parallel, and a worker that is forked while decoder
    threads run hangs.

    Raises:
        VideoError: The file cannot be read, has no frame, or takes longer than the timeout to open.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        open_file: OpenFile = None,
        timeout: float = READ_TIMEOUT,
        color_matrix: str = "bt601",
    ):
        super().__init__(path, open_file, timeout)
        self._color_matrix = color_matrix
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._empty: set[int] = set()  # video streams without packets
        self._turns = False  # whether the stream itself, in its first packet, says how to show it
        self._index: PacketIndex | None = None
        self._one_each = False  # one frame in each packet, in an order that is not known
        self._first: tuple[int, int, orientation.Orientation] | None = None  # width, height of the first frame
        self._cause: av.FFmpegError | None = None  # the last error that was skipped
        self._restart()
        try:
            self._count()
        except BaseException as error:
            self.close()
            if isinstance(error, av.FFmpegError):
                self._check_time()
                raise ffmpeg_errors.explain(self.path, error, self._open_file) from error
            raise

    def _restart(self) -> None:
        container, stream = self._open()
        self.close()  # after opening, so that the video stays usable if opening times out
        self._stream = stream
        self._container = self.enter_context(container)
        if stream.codec_context.codec.canonical_name != "h264":  # which marks damaged frames as such
            # Others skip what has errors, and what stays of an earlier frame differs after a seek.
            stream.codec_context.options = {"err_detect": "explode"}
        self._demuxer, self._next = container.demux(stream), 0  # of containers that are read in sequence

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        self._check_time()
        try:
            # Tags can be in any encoding. FFmpeg's own timeout ends its search in a file without packets.
            container = av.open(self._file(), metadata_errors="ignore", timeout=self._timeout)
            stream = streams.best(container, self._empty)
            fault = streams.fault(container, stream)
            fault = fault and (ffmpeg_errors.content(self.path, self._open_file) or fault)
        except (av.FFmpegError, OSError) as error:
            self._check_time()
            raise ffmpeg_errors.explain(self.path, error, self._open_file) from error
        if fault:
            container.close()
            raise VideoError(self.path, fault)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        return container, stream

    def _count(self) -> None:
        """Find out the number of frames, from the packets where they tell it, otherwise by decoding."""
        codec = self._stream.codec_context
        self._codec, self._stored = codec.codec.canonical_name, (codec.width, codec.height)
        content, intra_only = content_reader(self._codec, codec.extradata or b""), codec.codec.intra_only
        key = None if self._open_file or self._empty else PacketCache.key(self.path, self._stream.index)
        if known := _packet_cache.get(key):
            packets, self._turns = known
        else:
            packets = self._read_packets(content, intra_only)
            self._next = len(packets)
            if key and not self._cause:
                _packet_cache.put(key, packets, self._turns)
        if not packets and streams.best(self._container, {*self._empty, self._stream.index}):
            self._empty.add(self._stream.index)
            self._restart()
            return self._count()
        self._make_index(packets)
        times = [packets[at].pts for at in self._index.order] if self._index else [p.pts for p in packets]
        if not self._index and not self._one_each:
            times = [frame.pts for _, frame in self._from_start()]
        self.frames = len(times)
        header = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.fps = streams.frame_rate(times, self._stream.time_base, header)
        if not self.frames:
            raise self._failure(0) if self._cause else VideoError(self.path, "it has no frame that can be decoded")

    def _read_packets(self, content: Callable[[av.Packet], int], intra_only: bool) -> list[Packet]:
        """All packets of the stream, without what is in them."""
        packets: list[Packet] = []
        for p in self._packets(self._demuxer):
            key = p.is_keyframe or intra_only
            if key and streams.encrypted(p):
                raise VideoError(self.path, ffmpeg_errors.ENCRYPTED)
            self._turns = self._turns or (not packets and orientation.in_packet(p))
            packets.append(Packet(p.pts, p.dts, key, p.is_discard, p.is_corrupt, content(p)))
        return packets

    def _make_index(self, packets: list[Packet]) -> None:
        """Set `_index` if the packets tell which frame each holds, and `_one_each` if only the number of frames."""
        context, demuxer = self._stream.codec_context, self._container.format.name.split(",")[0]
        # The palette of a raw stream is in its first packet only.
        suited = self._codec in SKIPPABLE or (context.codec.intra_only and context.pix_fmt != "pal8")
        damaged = [at for at, p in enumerate(packets) if p.damaged or p.content == ODD]
        if not packets or not suited or (damaged and damaged[0] < len(packets) - 1):
            return
        order = display_order(packets, self._codec, context.codec.reorder, context.reorder_depth)
        if order is None:
            self._one_each = demuxer == "avi" and packets[0].key and not damaged
            return
        index = PacketIndex(packets, order, self._codec)
        self._seekable = demuxer in SEEKABLE and index.distinct
        progressive = context.field_order <= 1
        progressive = progressive and all(p.content != FIELDS for p in packets)
        usual = self._seekable and self._codec in USUAL and progressive and len(packets) > 1
        whole = not damaged and not self._cause and demuxer not in UNMARKED_ENDS
        if self._verify(index, index.spans(usual, whole)):
            self._index = index

    def _verify(self, index: PacketIndex, spans: list[tuple[int, int, bool]]) -> bool:
        """Whether decoding spans of packets, (first, last, some can be without a frame), gives what the index says."""
        if not spans:
            return True
        container, stream = self._open()
        with container:
            packets = enumerate(self._packets(container.demux(stream)))
            for first, last, lossy in spans:
                given = []
                for at, packet in packets:
                    packet.pts = at
                    if at == first and stream.codec_context.is_open:
                        stream.codec_context.flush_buffers()
                    given += self._pictures(stream, packet) if at >= first else []
                    if at == last:
                        break
                given += self._pictures(stream, None)
                if not index.confirm(first, last, [frame.pts for frame in given], lossy):
                    return False
        return True

    @cached_property
    def info(self) -> VideoInfo:
        """Properties of the video; decodes the first frame unless one was read. VideoError if that fails."""
        if self._first is None:
            self._note_first(next(self._decode([0]))[1])
        width, height, turn = self._first
        size = (height, width) if turn.rotation % 180 else (width, height)
        return VideoInfo(self.frames, self.fps, *size, turn.rotation, self._codec, turn.mirrored)

    def _note_first(self, frame: av.VideoFrame) -> None:
        self._first = frame.width, frame.height, orientation.of_frame(frame)

    def _note_info(self, frame: av.VideoFrame | None = None) -> None:
        """A frame as large as the header says stands for the first one, which then need not be decoded."""
        if frame and self._first is None:
            if self._turns or (frame.width, frame.height) != self._stored:
                frame = next((frame for number, frame in self._from_start() if number == 0), frame)
            self._note_first(frame)

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        missing = set(wanted)
        runs = self._index.runs(wanted) if self._index else []
        for number, frame in chain(*(self._run(*run) for run in runs), self._from_start()):
            if number in missing:
                missing.remove(number)
                yield number, frame
            if not missing:
                return
        if self._cause:
            raise self._failure(self._decoded)
        raise VideoError(
            self.path, f"decoding leaves out {counted(len(missing), 'frame')}, first number {min(missing)}"
        )

    def time_stamps(self) -> tuple[list[int], Fraction]:
        """When each frame is shown, and the unit in seconds. Where the file does not tell it (no time stamps, or such
        that repeat or go back) frames follow each other at the mean rate.

        Zero is the file's, in containers that have one (mp4, mkv); else it is the first time stamp of all streams, as
        for players: a transport stream begins at any time.
        """
        unit = self._stream.time_base
        if self._index:
            packets = [self._index.packets[at] for at in self._index.order]
            times, others = [packet.pts for packet in packets], [packet.dts for packet in packets]
        else:
            times, others = [frame.pts for _, frame in self._from_start()], []
        if others and None not in others and set(times) == {None}:  # AVI: those of decoding, one for each frame
            times = sorted(others)
        if len(times) != self.frames or None in times or any(b <= a for a, b in pairwise(times)):
            return list(range(self.frames)), 1 / Fraction(self.fps or FOLDER_FPS).limit_denominator(1001)
        zero, begin = 0, self._container.start_time
        if begin is not None and self._container.format.name.split(",")[0] not in SEEKABLE:
            zero = round(Fraction(begin, av.time_base) / unit)
        zero = min(times[0], zero)
        return [time - zero for time in times], unit

    @cached_property
    def _times(self) -> np.ndarray:
        times, unit = self.time_stamps()
        # integers up to 2^53 are exact, and so is the rounding of the quotient: 1.2 is the time of a frame at 1.2 s
        return np.array(times, np.int64) * unit.numerator / unit.denominator

    def times(self, unknown_fps: float = FOLDER_FPS) -> np.ndarray:
        return self._times if self.fps else super().times(unknown_fps)

    def frames_to_decode(self, wanted: list[int]) -> int:
        """How many frames `read` goes through for some in increasing order, the skipped ones included."""
        if not self._index:
            return wanted[-1] + 1
        return sum(end - start + 1 for start, end, _ in self._index.runs(wanted))

    @property
    def passed_over(self) -> str | None:
        return self._cause and (self._cause.strerror or str(self._cause))

    def _failure(self, decoded: int) -> VideoError:
        return ffmpeg_errors.explain(self.path, self._cause, self._open_file, decoded)

    def _packets(self, demuxer: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Packets that are not empty, up to the end or to the first error of the container."""
        try:
            for packet in self._in_time(demuxer):
                if packet.size:
                    yield packet
        except av.FFmpegError as error:
            self._check_time()
            self._cause = error.with_traceback(None)  # which would keep this video alive
            if (fault := self._failure(0)).transient:
                raise fault from error

    def _pictures(self, stream: av.VideoStream, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Frames that the decoder gives for a packet, or those that it still has (None). As players do, packets
        that do not decode are skipped: they can be damaged, or hold no picture."""
        try:
            return stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            self._cause = error.with_traceback(None)
            return []

    def _from_start(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames; numbered by their packets if these tell it, so that a lost frame shifts none after it."""
        container, stream = self._open()
        index, decoded = self._index, 0
        with container:
            for at, packet in enumerate(chain(self._packets(container.demux(stream)), [None])):
                if index and packet:
                    packet.pts = at
                for frame in self._in_time(self._pictures(stream, packet)):
                    if not index and self._first is None:
                        self._note_first(frame)
                    yield index.number.get(frame.pts, -1) if index else decoded, frame
                    decoded += 1
        self._decoded = decoded

    def _go_to(self, start: int) -> Iterator[tuple[int, av.Packet]]:
        """Packets and their positions from packet `start`, with a decoder that has forgotten all before it."""
        index, key = self._index, self._index.packets[start]
        if self._seekable:
            self._container.seek(key.pts if key.dts is None else key.dts, stream=self._stream)
            packets = self._packets(self._container.demux(self._stream))
            found = ((index.position.get(packet.pts, start), packet) for packet in packets)
        else:
            if start < self._next:
                self._restart()
            elif self._stream.codec_context.is_open:
                self._stream.codec_context.flush_buffers()
            found = self._in_sequence()
        return dropwhile(lambda item: item[0] < start, found)

    def _in_sequence(self) -> Iterator[tuple[int, av.Packet]]:
        for packet in self._packets(self._demuxer):
            self._next += 1
            yield self._next - 1, packet

    def _run(self, start: int, end: int, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames of packets `wanted`, by decoding from packet number `start`, a key frame, to packet number `end`.

        Ends without an error at the first sign that decoding cannot start there or that the seek went elsewhere;
        the caller then decodes from the start. A frame is held back until the frames that it can refer to, some
        of which are shown after it, are known to be undamaged.
        """
        index, key = self._index, self._index.packets[start]
        rank, begin = index.rank, index.rank[start] if start else -1
        sound = key.discarded or start == 0 or self._stream.codec_context.codec.intra_only
        skip = "NONREF" if key.key and SKIPPABLE.get(self._codec) else "DEFAULT"
        held: deque[tuple[int, av.VideoFrame] | None] = deque()
        try:
            packets, codec = self._go_to(start), self._stream.codec_context
            for expected, (at, packet) in zip(range(start, end + 1), packets, strict=False):
                if at != expected or packet.pts != index.packets[at].pts:
                    raise VideoError(self.path, "seeking led to another packet")
                packet.pts = at  # which its frame then has
                codec.skip_frame = "DEFAULT" if at in wanted else skip
                # What is shown before the key frame can refer to frames from before the seek.
                frames = codec.decode(packet) if rank[at] >= begin else self._pictures(self._stream, packet)
                # At the end, MPEG decoders that hold nothing back give their last frame again.
                if at == end and not (self._codec in MPEG and codec.reorder_depth == 0):
                    frames += codec.decode(None)
                for frame in frames:
                    if rank.get(frame.pts, -1) < begin:
                        continue
                    # A key frame by flag only (intra refresh), or one that refers to a lost frame, is no start.
                    sound = sound or (frame.pts == start and frame.pict_type == PictureType.I and frame.key_frame)
                    if frame.is_corrupt or not sound:
                        raise VideoError(self.path, "decoding cannot start at every key frame")
                    held.append((index.number[frame.pts], frame) if frame.pts in wanted else None)
                    if len(held) > REORDERED and (known := held.popleft()):
                        yield known
                if at == end:
                    yield from filter(None, held)
        except (VideoError, av.FFmpegError):
            self._restart()  # after a damaged frame a decoder can damage others, even after a seek

    def _to_rgb(self, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
        size = (height, width) if self.info.rotation % 180 else (width, height)
        frame = color.to_rgb24(self._reformatter, frame, *size, self._color_matrix, self.path)
        return orientation.Orientation(self.info.rotation, self.info.mirrored).apply(frame.to_ndarray())


def probe(path: str | os.PathLike) -> VideoInfo:
    """Properties of a video file."""
    with Video(path) as video:
        return video.info


def read_frames(path: str | os.PathLike, indices: ArrayLike, short_side: int | None = None) -> np.ndarray:
    """`Video.read` for a file opened just for this."""
    with Video(path) as video:
        return video.read(indices, short_side)
