"""One data set class: a list of videos in, clips out. A video is opened and decoded once for all that is
taken of it."""

import os
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import Dataset

from slowfast_uniformer.data import annotations, sampling, shards
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.flip_labels import flipped_labels
from slowfast_uniformer.data.open_video import video_opener
from slowfast_uniformer.data.transforms import TrainTransform, ViewTransform
from slowfast_uniformer.data.video import FrameFolder, VideoError
from slowfast_uniformer.data.workers import CurrentFiles
from slowfast_uniformer.seeding import mix, seeded


class VideoDataset(Dataset):
    """The videos of one split: `train` (AUG.NUM_SAMPLE random clips of each), `val` (one fixed clip) or
    `test` (NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS views).

    An item is asked for by (epoch, index) and holds `clips` (n, 3, T, H, W) float32, or None for a video that
    could not be read, `label` (with DATA.MULTI_LABEL multi-hot, (K,)), `targets`, the label that each clip
    shows, `video` (its index in the list), `views` (n,) and `errors`, path and message of each video that
    could not be read. In training an unreadable video is replaced by another drawn at random;
    elsewhere never.
    """

    def __init__(self, cfg: CfgNode, split: str, samples: list[annotations.Sample] | None = None):
        """Of `samples`, unless they are the split's list."""
        self.cfg = cfg
        self.split = split
        self.samples = annotations.load(cfg, split) if samples is None else samples
        self.bad_files: dict[str, str] = {}  # path -> cause of what training passes over
        self.in_hand = CurrentFiles(cfg.DATA_LOADER.NUM_WORKERS)
        self.open_video = video_opener(cfg.DATA.DECODER, cfg.DATA.READ_TIMEOUT)
        self.sampling = annotations.format_of(cfg, split).sampling
        self.temporal_views = cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1
        self.spatial_crops = cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
        crop_size = cfg.DATA.TEST_CROP_SIZE if split == "test" else cfg.DATA.TRAIN_CROP_SIZE
        self.transform = TrainTransform(cfg) if split == "train" else ViewTransform(cfg, crop_size)
        aware = split == "train" and cfg.DATA.FLIP_LABELS
        self.mirrored = flipped_labels(cfg, annotations.class_names(cfg)) if aware else None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def views(self) -> int:
        """Views of each video in testing."""
        return self.temporal_views * self.spatial_crops

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        if self.split == "train":
            return self._train_item(epoch, index)
        with seeded(self.cfg.RNG_SEED, epoch, index):
            return self._test_item(index)

    def _train_item(self, epoch: int, first: int) -> dict[str, Any]:
        errors: list[tuple[str, str]] = []
        index = first
        for attempt in range(self.cfg.TRAIN.MAX_BAD_VIDEOS):
            path = self.samples[index].path
            if path not in self.bad_files:
                try:
                    with seeded(self.cfg.RNG_SEED, epoch, first, *([attempt] if attempt else [])):
                        clips, targets = self._random_clips(self.samples[index])
                    return self._item(index, clips, range(len(clips)), errors, targets)
                except VideoError as error:
                    self.bad_files[path] = str(error)
            errors.append((path, self.bad_files[path]))
            # a function of its place, so that it is the same whether the bad one was known or tried
            index = mix(self.cfg.RNG_SEED, epoch, first, attempt) % len(self.samples)
        return self._item(index, None, (), errors)

    def _test_item(self, index: int) -> dict[str, Any]:
        try:
            return self._item(index, self._all_views(self.samples[index]), range(self.views), [])
        except VideoError as error:
            return self._item(index, None, (), [(self.samples[index].path, str(error))])

    def _item(
        self,
        index: int,
        clips: list[torch.Tensor] | None,
        views: Any,
        errors: list[tuple[str, str]],
        targets: list[torch.Tensor] | None = None,
    ) -> dict[str, Any]:
        label = self._target(self.samples[index].label)
        return {
            "clips": None if clips is None else torch.stack(clips),
            "label": label,
            "targets": None if clips is None else torch.stack(targets or [label] * len(clips)),
            "video": index,
            "views": torch.tensor(list(views), dtype=torch.int64),
            "errors": errors,
        }

    def open(self, sample: annotations.Sample) -> Video | FrameFolder:
        """The video of a sample, to be closed; VideoError if it cannot be opened."""
        self.in_hand.set(sample.path)
        in_tar = shards.opener(sample.path)
        if sample.frames is not None and not in_tar and not os.path.isfile(sample.path):
            return FrameFolder(sample.path, self.cfg.DATA.IMAGE_TEMPLATE, sample.frames)
        return self.open_video(sample.path, in_tar)

    def _target(self, label: int | tuple[int, ...]) -> torch.Tensor:
        """What is to be answered: the label, or with DATA.MULTI_LABEL a 1 for each (K,), 0 for the others."""
        if not self.cfg.DATA.MULTI_LABEL:
            return torch.tensor(label)
        target = torch.zeros(self.cfg.MODEL.NUM_CLASSES)
        target[list(label)] = 1.0
        return target

    def _random_clips(self, sample: annotations.Sample) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        with self.open(sample) as video:
            part = sample.part
            numbers = self._indices_of_part(video, part) if part else self.indices(video, None)
            frames = video.read(numbers)
        number = self.cfg.AUG.NUM_SAMPLE if self.cfg.AUG.ENABLE else 1
        clips = [self.transform(frames) for _ in range(number)]
        pairs = [self._flip(clip, sample.label) for clip in clips]
        return [clip for clip, _ in pairs], [self._target(label) for _, label in pairs]

    def _flip(self, clip: torch.Tensor, label: int | tuple[int, ...]) -> tuple[torch.Tensor, int | tuple[int, ...]]:
        """With DATA.FLIP_LABELS: the clip or, half the time, its mirror image and what that shows."""
        if self.mirrored is None or np.random.uniform() >= 0.5:
            return clip, label
        shown = tuple(self.mirrored[k] for k in ([label] if isinstance(label, int) else label))
        if None in shown:
            return clip, label
        return clip.flip(-1), shown[0] if isinstance(label, int) else shown

    def _all_views(self, sample: annotations.Sample) -> list[torch.Tensor]:
        with self.open(sample) as video:
            indices = [self.indices(video, view) for view in range(self.temporal_views)]
            wanted, where = np.unique(np.concatenate(indices), return_inverse=True)
            frames = video.read(wanted)
        spatial = [sampling.split_view(view, self.spatial_crops)[1] for view in range(self.spatial_crops)]
        where = where.reshape(self.temporal_views, -1)
        return [clip for rows in where for clip in self.transform.crops(frames[rows], spatial)]

    def _indices_of_part(self, video: Video | FrameFolder, part: tuple[float, float, float]) -> np.ndarray:
        """Frame numbers of a random clip inside the annotated part of a video."""
        (start, end, total), frames = part, video.frames
        length, first = frames * (end - start) / total, int(frames * start / total)
        return sampling.sparse(length, self.cfg.DATA.NUM_FRAMES, start=first, last=frames - 1)

    def indices(self, video: Video | FrameFolder, view: int | None) -> np.ndarray:
        """Frame numbers of a view, or of a random clip (view None)."""
        data = self.cfg.DATA
        if self.sampling == "dense":
            by_fps = data.SAMPLE_BY_FPS and video.fps  # folders of frames have no fps
            rates = (video.fps, data.TARGET_FPS) if by_fps else (None, None)
            return sampling.dense(
                video.frames,
                data.NUM_FRAMES,
                data.SAMPLING_RATE,
                view,
                self.temporal_views,
                data.USE_OFFSET_SAMPLING,
                *rates,
            )
        return sampling.sparse(video.frames, data.NUM_FRAMES, view, self.temporal_views)
