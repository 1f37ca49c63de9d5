"""One data set class: a list of videos in, clips out. A video is opened and decoded once for all that is
taken of it."""

import os
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import Dataset

from slowfast_uniformer.data import annotations, sampling
from slowfast_uniformer.data.decode import FrameFolder, Video, VideoError
from slowfast_uniformer.data.transforms import TrainTransform, ViewTransform
from slowfast_uniformer.rng import seeded


class VideoDataset(Dataset):
    """The videos of one split: `train` (AUG.NUM_SAMPLE random clips of each), `val` (one fixed clip) or
    `test` (NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS views).

    An item is asked for by (epoch, index) and holds `clips` (n, 3, T, H, W) float32, or None for a video that
    could not be read, `label`, `video` (its index in the list), `views` (n,) and `errors`, a message for each
    video that could not be read. In training an unreadable video is replaced by another drawn at random;
    elsewhere never.
    """

    def __init__(self, cfg: CfgNode, split: str):
        self.cfg = cfg
        self.split = split
        self.samples = annotations.load(cfg, split)
        self.sampling = annotations.format_of(cfg, split).sampling
        self.temporal_views = cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1
        self.spatial_crops = cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
        crop_size = cfg.DATA.TEST_CROP_SIZE if split == "test" else cfg.DATA.TRAIN_CROP_SIZE
        self.transform = TrainTransform(cfg) if split == "train" else ViewTransform(cfg, crop_size)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def views(self) -> int:
        """Views of each video in testing."""
        return self.temporal_views * self.spatial_crops

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        with seeded(self.cfg.RNG_SEED, epoch, index):
            return self._train_item(index) if self.split == "train" else self._test_item(index)

    def _train_item(self, index: int) -> dict[str, Any]:
        errors: list[str] = []
        while len(errors) < self.cfg.TRAIN.MAX_BAD_VIDEOS:
            try:
                clips = self._random_clips(self.samples[index])
                return self._item(index, clips, range(len(clips)), errors)
            except VideoError as error:
                errors.append(str(error))
                index = int(np.random.randint(len(self.samples)))
        return self._item(index, None, (), errors)

    def _test_item(self, index: int) -> dict[str, Any]:
        try:
            return self._item(index, self._all_views(self.samples[index]), range(self.views), [])
        except VideoError as error:
            return self._item(index, None, (), [str(error)])

    def _item(
        self, index: int, clips: list[torch.Tensor] | None, views: Any, errors: list[str]
    ) -> dict[str, Any]:
        return {
            "clips": None if clips is None else torch.stack(clips),
            "label": self.samples[index].label,
            "video": index,
            "views": torch.tensor(list(views), dtype=torch.int64),
            "errors": errors,
        }

    def _open(self, sample: annotations.Sample) -> Video | FrameFolder:
        if sample.frames is not None and not os.path.isfile(sample.path):
            return FrameFolder(sample.path, self.cfg.DATA.IMAGE_TEMPLATE, sample.frames)
        return Video(sample.path)

    def _random_clips(self, sample: annotations.Sample) -> list[torch.Tensor]:
        with self._open(sample) as video:
            frames = video.read(self._indices(video, None))
        return [self.transform(frames) for _ in range(self.cfg.AUG.NUM_SAMPLE if self.cfg.AUG.ENABLE else 1)]

    def _all_views(self, sample: annotations.Sample) -> list[torch.Tensor]:
        with self._open(sample) as video:
            indices = [self._indices(video, view) for view in range(self.temporal_views)]
            wanted, where = np.unique(np.concatenate(indices), return_inverse=True)
            frames = video.read(wanted)
        where = where.reshape(self.temporal_views, -1)
        views = (sampling.split_view(view, self.spatial_crops) for view in range(self.views))
        return [self.transform(frames[where[temporal]], spatial) for temporal, spatial in views]

    def _indices(self, video: Video | FrameFolder, view: int | None) -> np.ndarray:
        """Frame numbers of a view, or of a random clip (view None)."""
        data, info = self.cfg.DATA, video.info
        if self.sampling == "dense":
            by_fps = data.SAMPLE_BY_FPS and info.fps  # folders of frames have no fps
            rates = (info.fps, data.TARGET_FPS) if by_fps else (None, None)
            return sampling.dense(
                info.frames,
                data.NUM_FRAMES,
                data.SAMPLING_RATE,
                view,
                self.temporal_views,
                data.USE_OFFSET_SAMPLING,
                *rates,
            )
        return sampling.sparse(info.frames, data.NUM_FRAMES, view, self.temporal_views)
