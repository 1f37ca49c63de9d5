"""What a container says of its video streams: which one to show, whether it is encrypted, and its frame rate."""

import math
from collections.abc import Collection, Sequence
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition

from slowfast_uniformer.data.ffmpeg_errors import AGAIN, DAMAGED, ENCRYPTED, REENCODE

# How containers that are not mp4 say so: tags of a Matroska stream, of an ASF file.
ENCRYPTION_TAGS = {"enc_key_id", "encryption", "ASF_Protection_Type"}
HIGHEST_RATE = 240  # of a header that no time stamps confirm: some say the time base instead, 1000 or 90000
# Time without a frame that is a jump of the clock: as many seconds, and as many usual distances of frames.
JOIN_SECONDS, JOIN_DISTANCES = 600, 100


def best(container: av.container.InputContainer, empty: Collection[int] = ()) -> av.VideoStream | None:
    """The video stream that FFmpeg's players show, without looking at those known to be `empty`.

    That is the default one, then the one with more frames (a sequence and not its cover), then the first. A picture
    attached to sound is none. Of streams without a decoder, one is returned if there is no other.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    streams = [s for s in streams if s.index not in empty]
    decodable = [s for s in streams if s.codec_context is not None]
    favourite = container.streams.best("video")
    return favourite if favourite in decodable else next(iter(decodable or streams), None)


def fault(container: av.container.InputContainer, stream: av.VideoStream | None) -> str | None:
    """Why the stream cannot be read, if its container says so."""
    if stream is None:
        kinds = sorted({"a cover" if s.type == "video" else s.type for s in container.streams})
        return f"no video stream, only {' and '.join(kinds)}" if kinds else f"no video stream: {DAMAGED}; {AGAIN}"
    if not ENCRYPTION_TAGS.isdisjoint({*stream.metadata, *container.metadata}):
        return ENCRYPTED
    if stream.codec_context is None:
        return f"no decoder for its video; {REENCODE}"
    return None


def encrypted(packet: av.Packet) -> bool:
    """Whether a packet, a key frame, is encrypted. In mp4 those of the first seconds need not be."""
    return packet.has_sidedata("encryption_info")


def frame_rate(times: Sequence[int | None], time_base: Fraction, header: float) -> float:
    """Mean frames per second: the number of frames / (last time - first time + the usual distance).

    Args:
        times: Time stamps of all frames in display order, in units of `time_base`; None where there is none.
        time_base: Seconds of a unit.
        header: The rate that the header says. It is returned as it is where it agrees with the time stamps, whose
            rounding it is free of, and where there are none.
    """
    if header > 0 and times and None not in (times[0], times[-1]):
        distance = 1 / header / float(time_base)
        if abs((len(times) - 1) * distance - (times[-1] - times[0])) <= 1:
            return header  # the usual case, which the rest finds, too, but not as quickly
    shown = np.array(times, float)  # NaN for None
    numbers = np.flatnonzero(~np.isnan(shown))
    shown = shown[numbers]
    if len(np.unique(shown)) < 2:
        return header if header <= HIGHEST_RATE else 0.0
    frames = int(numbers[-1] - numbers[0]) + 1
    as_given = _duration(numbers, shown, time_base)
    in_order = _duration(numbers, np.sort(shown), time_base)
    distance = 1 / header / float(time_base) if header > 0 else math.inf
    for span, usual, smallest, largest in (as_given, in_order):
        # The last frame lasts as long as others do, and each of two time stamps is half a unit off at most. A header
        # that says the usual distance can be right by one more: clips are often cut where a frame before the last is
        # stored after it.
        smallest = 0 if abs(distance - usual) <= 1 else smallest
        if smallest - 1 <= frames * distance - span <= largest + 1:
            return header
    # A clock that is set anew goes back once or twice, time stamps in decoding order go back again and again.
    backwards = np.count_nonzero(np.diff(shown) < 0)
    span, usual, *_ = in_order if backwards > max(1, frames / 20) else as_given
    return frames / (span + usual) / float(time_base)


def _duration(numbers: np.ndarray, times: np.ndarray, time_base: Fraction) -> tuple[float, float, float, float]:
    """From the first frame to the last; and the median, smallest and largest distance of two frames. Where time goes
    back or jumps far, the clock was set anew: there the distance counts as the median."""
    frames, units = np.diff(numbers), np.diff(times)
    distances = (units / frames)[units > 0]
    usual = float(np.median(distances))
    longest = max(JOIN_DISTANCES * usual, float(JOIN_SECONDS / time_base))
    jumps = (units < 0) | (units > longest)
    span = float(units[~jumps].sum() + usual * frames[jumps].sum())
    return span, usual, float(distances.min()), min(float(distances.max()), longest)
