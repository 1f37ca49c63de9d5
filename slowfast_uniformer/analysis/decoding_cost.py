"""How much decoding a training clip takes, and how much of it `uniformer transcode` would save.

A decoder begins at a key frame, so it goes through frames that no clip needs. What it goes through is known from the
packets, without decoding. Files of `uniformer transcode` have a key frame every 16 frames.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

from fvcore.common.config import CfgNode

from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.encode import Settings, scaled_size
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.video import FrameFolder, VideoError
from slowfast_uniformer.seeding import seeded

VIDEOS, CLIPS = 16, 2  # that are looked at: videos spread over the list, random clips of each
MAX_SECONDS = 20.0


@dataclass
class DecodingCost:
    """Sums over some training clips.

    Attributes:
        clips: Number of clips.
        wanted: Frames that the clips are made of.
        decoded: Frames that the decoder goes through for them.
        pixels: Pixels of these.
        seconds: CPU time of reading them.
        decoded_after: Frames that it would go through after `uniformer transcode`.
        pixels_after: Pixels of these.
    """

    clips: int = 0
    wanted: int = 0
    decoded: int = 0
    pixels: int = 0
    seconds: float = 0.0
    decoded_after: int = 0
    pixels_after: int = 0

    @property
    def in_vain(self) -> float:
        """Share of the frames gone through that no clip needs."""
        return 1 - self.wanted / self.decoded

    @property
    def gain(self) -> float:
        """How many times fewer pixels the decoder would go through after `uniformer transcode`."""
        return self.pixels / self.pixels_after


def measure(cfg: CfgNode, samples: Sequence[Sample]) -> DecodingCost | None:
    """Read random training clips of some videos; None if none of them is a video file that can be read.

    Args:
        cfg: The config, which says how clips are sampled.
        samples: The train list.
    """
    spread = [samples[number * len(samples) // VIDEOS] for number in range(VIDEOS)] if samples else []
    dataset = VideoDataset(cfg, "train", list(dict.fromkeys(spread)))
    cost, end = DecodingCost(), time.monotonic() + MAX_SECONDS
    for number, sample in enumerate(dataset.samples):
        if time.monotonic() > end:
            break
        with suppress(VideoError):  # the check has named it
            _add_video(cost, dataset, number, sample)
    return cost if cost.clips else None


def _add_video(cost: DecodingCost, dataset: VideoDataset, number: int, sample: Sample) -> None:
    data = dataset.cfg.DATA
    with open_sample(sample, data.IMAGE_TEMPLATE, timeout=data.READ_TIMEOUT, color_matrix=data.COLOR_MATRIX) as video:
        if isinstance(video, FrameFolder):  # every image is decoded alone
            return
        after = Settings()
        width, height = video.info.width, video.info.height
        width_after, height_after = scaled_size(width, height, Fraction(1), after.short_side)
        for clip in range(CLIPS):
            with seeded(dataset.cfg.RNG_SEED, clip, number):
                frames = sorted({*dataset.indices(video, None, sample.part).tolist()})
            started = time.process_time()
            video.read(frames)
            cost.seconds += time.process_time() - started
            decoded, decoded_after = video.frames_to_decode(frames), _with_key_frame_every(after.gop, frames)
            cost.clips += 1
            cost.wanted += len(frames)
            cost.decoded += decoded
            cost.pixels += decoded * width * height
            cost.decoded_after += decoded_after
            cost.pixels_after += decoded_after * width_after * height_after


def _with_key_frame_every(gop: int, frames: Iterable[int]) -> int:
    """How many frames are gone through for these."""
    return len({before for frame in frames for before in range(frame - frame % gop, frame + 1)})
