"""Frames of a video file by number, with PyAV: bit for bit those of decoding the whole file and counting.

Demuxing once, without decoding, gives each packet's time stamps and the key frames. Reading seeks to the key
frame before a wanted frame, skips the decoding of frames that no other refers to, and converts wanted frames
only. For containers and codecs whose time stamps are known to mislead, it decodes from the start and counts.
"""

import os
from collections import deque, namedtuple
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import chain, dropwhile

import av
import numpy as np
from numpy.typing import ArrayLike

from slowfast_uniformer.data.video import READ_TIMEOUT, OpenFile, VideoError, VideoInfo, VideoSource

# Demuxers, by the first of their names. After a seek, AVI can return other frames than its time stamps say.
SEEKABLE = {"mov", "matroska"}
# Codecs with one shown frame in each packet (in VP8 hidden frames are packets too), and whether decoding can skip
# non-reference frames: in AV1 that changes the others.
SKIPPABLE = {"h264": True, "hevc": True, "vp9": True, "mpeg4": True, "av1": False}
REORDERED = 16  # most frames by which a frame is shown before one that it refers to (H.264 and HEVC)
EMPTY_MPEG4 = 19  # most bytes of an MPEG-4 packet without a frame: the one before holds it, or there is none
_Packet = namedtuple("_Packet", "pts dts key discarded size")


class Video(VideoSource):
    """A video file decoded by PyAV.

    Decoding is single-threaded: DataLoader workers run in parallel, and a worker that is forked while decoder
    threads run hangs.

    Raises:
        VideoError: The file cannot be read, has no frame, or takes longer than the timeout to open.
    """

    def __init__(self, path: str | os.PathLike, open_file: OpenFile = None, timeout: float = READ_TIMEOUT):
        super().__init__(path, open_file, timeout)
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._restart()
        try:
            self._count()
        except BaseException as error:
            self.close()
            if isinstance(error, av.FFmpegError):
                self._check_time()
                raise VideoError(self.path, error) from error
            raise

    def _restart(self) -> None:
        container, stream = self._open()
        self.close()  # after opening, so that the video stays usable if opening times out
        self._stream = stream
        self._container = self.enter_context(container)

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        self._check_time()
        try:
            # Tags can be in any encoding. FFmpeg's own timeout ends its search in a file without packets.
            container = av.open(self._file(), metadata_errors="ignore", timeout=self._timeout)
        except (av.FFmpegError, OSError) as error:
            self._check_time()
            invalid = isinstance(error, av.InvalidDataError)
            raise VideoError(self.path, "not a video, or its header is lost" if invalid else error) from error
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams or streams[0].codec_context is None:
            container.close()
            raise VideoError(self.path, "no decoder for its video" if streams else "no video stream")
        streams[0].codec_context.thread_type = "NONE"
        streams[0].codec_context.thread_count = 1
        return container, streams[0]

    def _count(self) -> None:
        """Find out the number of frames, from the packets if they can be trusted."""
        demuxer, codec = self._container.format.name.split(",")[0], self._stream.codec_context
        self._codec, self._stored = codec.codec.canonical_name, (codec.width, codec.height)
        demuxed = (p for p in self._in_time(self._container.demux(self._stream)) if p.size)
        packets = [_Packet(p.pts, p.dts, p.is_keyframe, p.is_discard, p.size) for p in demuxed]
        one_each, sound_times = _trusted(packets, self._codec)
        self._index = _Index(packets) if sound_times and demuxer in SEEKABLE else None
        self.frames = len(self._index.times if self._index else packets)
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        if not self._index and not (one_each and demuxer == "avi"):
            with suppress(VideoError):  # of a damaged file, the packets count
                self.frames = sum(1 for _ in self._from_start())
            self._check_time()
        if not self.frames:
            raise VideoError(self.path, "it has no frame that can be decoded")

    @cached_property
    def info(self) -> VideoInfo:
        """Properties of the video; decodes the first frame unless one was read. VideoError if that fails."""
        return self._describe(next(self._decode([0]))[1])

    def _describe(self, frame: av.VideoFrame) -> VideoInfo:
        rotation = round(frame.rotation / 90) * 90 % 360
        size = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
        return VideoInfo(self.frames, self.fps, *size, rotation, self._codec)

    def _note_info(self, frame: av.VideoFrame | None = None) -> None:
        """A frame as large as the header says stands for the first one, which then need not be decoded."""
        if frame and "info" not in vars(self):
            if self._index and (frame.width, frame.height) == self._stored:
                self.info = self._describe(frame)
            else:  # this container is in the middle of reading
                with Video(self.path, self._open_file, self._timeout) as other:
                    self.info = other.info

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        missing = set(wanted)
        runs = self._index.runs(wanted) if self._index else []
        for number, frame in chain(*(self._run(*run) for run in runs), self._from_start()):
            if number in missing:
                missing.remove(number)
                yield number, frame
            if not missing:
                return
        raise VideoError(self.path, f"decoding leaves out {len(missing)} frames, first number {min(missing)}")

    def _from_start(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames, numbered by time stamps if these are valid: a lost frame does not shift those after it."""
        container, stream = self._open()
        decoded = 0
        with container:
            try:
                for frame in self._in_time(container.decode(stream)):
                    yield self._index.number.get(frame.pts, -1) if self._index else decoded, frame
                    decoded += 1
            except av.FFmpegError as error:
                self._check_time()
                raise VideoError(self.path, f"only {decoded} frames decode: {error.strerror}") from error

    def _run(self, start: int, end: int, times: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames shown at `times`, by decoding from packet number `start`, a key frame, to packet number `end`.

        Ends without an error at the first sign that decoding cannot start there or that the seek went elsewhere;
        the caller then decodes from the start. A frame is held back until the frames that it can refer to, some
        of which are shown after it, are known to be undamaged.
        """
        codec, index, key = self._stream.codec_context, self._index, self._index.packets[start]
        sound, skip = key.discarded, "NONREF" if SKIPPABLE[self._codec] else "DEFAULT"
        held: deque[tuple[int, av.VideoFrame] | None] = deque()
        try:
            self._container.seek(key.pts if key.dts is None else key.dts, stream=self._stream)
            packets = self._in_time(self._container.demux(self._stream))
            packets = dropwhile(lambda p: index.position.get(p.pts, start) < start, packets)
            for at, packet in zip(range(start, end + 1), packets, strict=False):
                if index.position.get(packet.pts) != at:
                    raise VideoError(self.path, "seeking led to another packet")
                codec.skip_frame = "DEFAULT" if packet.pts in times else skip
                for frame in packet.decode() + (codec.decode(None) if at == end else []):
                    if frame.pts is None or frame.pts < key.pts:
                        continue  # shown before the key frame, it may refer to frames from before the seek
                    # A key frame by flag only (intra refresh), or one that refers to a lost frame, is no start.
                    sound = sound or (frame.pts == key.pts and frame.pict_type == av.video.frame.PictureType.I)
                    if frame.is_corrupt or not sound:
                        raise VideoError(self.path, "decoding cannot start at every key frame")
                    held.append((index.number[frame.pts], frame) if frame.pts in times else None)
                    if len(held) > REORDERED and (known := held.popleft()):
                        yield known
                if at == end:
                    yield from filter(None, held)
        except (VideoError, av.FFmpegError):
            self._restart()  # after a damaged frame a decoder can damage others, even after a seek

    def _to_rgb(self, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
        size = (height, width) if self.info.rotation % 180 else (width, height)
        frame = self._reformatter.reformat(frame, *size, "rgb24", interpolation="BILINEAR", threads=1)
        return np.rot90(frame.to_ndarray(), self.info.rotation // 90)


class _Index:
    """Packets in decoding order, time stamps in display order, and the maps between them."""

    def __init__(self, packets: list[_Packet]):
        self.packets = packets
        self.times = sorted(p.pts for p in packets if not p.discarded)
        self.number = {pts: number for number, pts in enumerate(self.times)}
        self.position = {p.pts: position for position, p in enumerate(packets)}
        self.start = {}  # the packet to decode from for the frame shown at a time
        keys = []
        for position, packet in enumerate(packets):
            keys += [position] if packet.key else []
            self.start[packet.pts] = next(k for k in reversed(keys) if packets[k].pts <= packet.pts)

    def runs(self, wanted: list[int]) -> list[tuple[int, int, set[int]]]:
        """Runs of packets to decode, with a seek before each: (first packet, last packet, wanted times). Runs
        neither overlap nor touch."""
        runs: list[tuple[int, int, set[int]]] = []
        for pts in (self.times[number] for number in wanted):
            start, end, times = self.start[pts], self.position[pts], {pts}
            if runs and start <= runs[-1][1] + 1:
                start, last, earlier = runs.pop()
                end, times = max(end, last), times | earlier
            runs.append((start, end, times))
        return runs


def _trusted(packets: list[_Packet], codec: str) -> tuple[bool, bool]:
    """Whether each packet is one frame, and whether in addition all time stamps exist, differ and none is before
    the first."""
    one_each = bool(packets) and packets[0].key and codec in SKIPPABLE
    one_each = one_each and (codec != "mpeg4" or all(p.size > EMPTY_MPEG4 for p in packets))
    times = {p.pts for p in packets}
    return one_each, one_each and len(times - {None}) == len(packets) and packets[0].pts == min(times)


def probe(path: str | os.PathLike) -> VideoInfo:
    """Properties of a video file."""
    with Video(path) as video:
        return video.info


def read_frames(path: str | os.PathLike, indices: ArrayLike, short_side: int | None = None) -> np.ndarray:
    """`Video.read` for a file opened just for this."""
    with Video(path) as video:
        return video.read(indices, short_side)
