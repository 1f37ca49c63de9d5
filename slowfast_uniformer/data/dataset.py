"""The data set of videos: a list in, clips out. A video is opened and decoded once for all clips taken from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import Dataset

from slowfast_uniformer.data import annotations, sampling
from slowfast_uniformer.data.bad_videos import BadVideo, bad_video
from slowfast_uniformer.data.flip_labels import flipped_labels
from slowfast_uniformer.data.open_video import decoder_class, open_sample
from slowfast_uniformer.data.raw_clips import RawClips, pack, transforms_on_device
from slowfast_uniformer.data.sample_list import SECONDS, Label, Part, Sample
from slowfast_uniformer.data.transforms import ClipPlan, TrainTransform, ViewTransform
from slowfast_uniformer.data.video import VideoError, VideoSource, VideoTimeout
from slowfast_uniformer.data.workers import CurrentFiles
from slowfast_uniformer.distributed.topology import clips_per_video
from slowfast_uniformer.seeding import mix, seeded

Tensors = list[torch.Tensor]
Clips = torch.Tensor | RawClips
Item = dict[str, Any]  # see VideoDataset


class VideoDataset(Dataset):
    """The videos of one split.

    `train` gives AUG.NUM_SAMPLE random clips of each video, `val` one fixed clip, `test` NUM_ENSEMBLE_VIEWS x
    NUM_SPATIAL_CROPS views. An unreadable video is replaced by a random other one in training only.

    `dataset[epoch, index]` is an item; `dataset[epoch, index, n]` is one with other random draws, for a video that an
    epoch has had n times before (DATA.SAMPLER). It is a dict of
        clips: (n, 3, T, H, W) float32, or where they are made on the device (AUG.DEVICE) RawClips; or None if the
            video cannot be read;
        label: class index, or with DATA.MULTI_LABEL a multi-hot vector (K,);
        targets: the label of each clip, stacked (n,) or (n, K); differs from `label` for flipped clips;
        video: index of the video in the list;
        views: (n,) int64, the view number of each clip;
        errors: the BadVideo of each video that could not be read.

    Args:
        cfg: The config.
        split: train, val or test.
        samples: The videos; None for the split's list.
    """

    def __init__(self, cfg: CfgNode, split: str, samples: Sequence[Sample] | None = None):
        self.cfg, self.split = cfg, split
        self.samples = annotations.load(cfg, split) if samples is None else samples
        self.list_name = annotations.list_path(cfg, split) if samples is None else "the list"
        self.bad_videos: dict[str, BadVideo] = {}  # by path, those that training skips
        self.current_files = CurrentFiles(cfg.DATA_LOADER.NUM_WORKERS)
        decoder_class(cfg.DATA.DECODER)  # fails here rather than in each worker
        self.sampling = annotations.format_of(cfg, split).sampling
        self.temporal_views = cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1
        self.spatial_crops = cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
        crop_size = cfg.DATA.TEST_CROP_SIZE if split == "test" else cfg.DATA.TRAIN_CROP_SIZE
        self.transform = TrainTransform(cfg) if split == "train" else ViewTransform(cfg, crop_size)
        label_aware = split == "train" and cfg.DATA.FLIP_LABELS
        self.on_device = transforms_on_device(cfg)
        self.flip_labels = flipped_labels(cfg, annotations.class_names(cfg)) if label_aware else None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def views(self) -> int:
        """Number of views of each video in testing."""
        return self.temporal_views * self.spatial_crops

    def __getitem__(self, key: tuple[int, ...]) -> Item:
        epoch, index, *repeat = key
        if self.split == "train":
            return self._train_item(epoch, index, repeat)
        sample = self.samples[index]
        try:
            with seeded(self.cfg.RNG_SEED, epoch, index):
                return self._item(index, self._all_views(sample), errors=[])
        except VideoError as error:
            return self._item(index, None, [self._bad_video(sample, error)])

    def _train_item(self, epoch: int, first: int, repeat: Sequence[int] = ()) -> Item:
        errors: list[BadVideo] = []
        index = first
        for attempt in range(self.cfg.TRAIN.MAX_BAD_VIDEOS):
            path = self.samples[index].path
            bad = self.bad_videos.get(path)
            if not bad:
                try:
                    with seeded(self.cfg.RNG_SEED, epoch, first, *([attempt] if attempt or repeat else []), *repeat):
                        clips, targets = self._random_clips(self.samples[index])
                    return self._item(index, clips, errors, targets)
                except VideoError as error:
                    bad = self._bad_video(self.samples[index], error)
                    if bad.state or isinstance(error, VideoTimeout):  # others may be back when their turn comes again
                        self.bad_videos[path] = bad
            errors.append(bad)
            # a function of the position, so that it is the same whether the bad video was known or tried
            index = mix(self.cfg.RNG_SEED, epoch, first, attempt, *repeat) % len(self.samples)
        return self._item(index, None, errors)

    def _bad_video(self, sample: Sample, error: VideoError) -> BadVideo:
        bad = bad_video(sample.path, error)
        place = f"{self.list_name}, line {sample.line}: " if sample.line else ""  # a video can have many segments
        return bad._replace(cause=place + bad.cause)

    def _item(self, index: int, clips: Clips | None, errors: list[BadVideo], targets: Tensors | None = None) -> Item:
        label = self._target(self.samples[index].label)
        return {
            "clips": clips,
            "label": label,
            "targets": None if clips is None else torch.stack(targets or [label] * len(clips)),
            "video": index,
            "views": torch.arange(0 if clips is None else len(clips)),
            "errors": errors,
        }

    def open(self, sample: Sample) -> VideoSource:
        """Open the video of a sample, to be closed by the caller. VideoError if that fails."""
        self.current_files.set(sample.path)
        data = self.cfg.DATA
        return open_sample(sample, data.IMAGE_TEMPLATE, data.DECODER, data.READ_TIMEOUT, data.COLOR_MATRIX)

    def _target(self, label: Label) -> torch.Tensor:
        """The class index, or with DATA.MULTI_LABEL the multi-hot vector (K,)."""
        if not self.cfg.DATA.MULTI_LABEL:
            return torch.tensor(label)
        target = torch.zeros(self.cfg.MODEL.NUM_CLASSES)
        target[list(label)] = 1.0
        return target

    def _random_clips(self, sample: Sample) -> tuple[Clips, Tensors]:
        with self.open(sample) as video:
            frames = video.read(self.indices(video, None, sample.part))
        plans = [self.transform.plan(*frames.shape[:3]) for _ in range(clips_per_video(self.cfg))]
        pairs = [self._flip(plan, sample.label) for plan in plans]
        plans, targets = [plan for plan, _ in pairs], [self._target(label) for _, label in pairs]
        maker = self.transform.maker
        if self.on_device:
            return pack(frames, plans, maker), targets
        return torch.stack([maker.execute(frames, plan) for plan in plans]), targets

    def _flip(self, plan: ClipPlan, label: Label) -> tuple[ClipPlan, Label]:
        """With DATA.FLIP_LABELS: with probability 0.5 the clip flipped left to right and the label it then has."""
        if self.flip_labels is None or np.random.uniform() >= 0.5:
            return plan, label
        flipped = tuple(self.flip_labels[k] for k in ([label] if isinstance(label, int) else label))
        if None in flipped:
            return plan, label
        return plan._replace(flip=True), flipped[0] if isinstance(label, int) else flipped

    def _all_views(self, sample: Sample) -> Clips:
        with self.open(sample) as video:
            indices = [self.indices(video, view, sample.part) for view in range(self.temporal_views)]
            wanted, where = np.unique(np.concatenate(indices), return_inverse=True)
            frames = video.read(wanted)
        spatial = [sampling.split_view(view, self.spatial_crops)[1] for view in range(self.spatial_crops)]
        where = where.reshape(self.temporal_views, -1)
        if self.on_device:
            plans = self.transform.plans(*frames.shape[1:3], spatial)
            return pack(frames, plans * len(where), self.transform.maker, where.repeat(len(plans), axis=0))
        return torch.stack([clip for rows in where for clip in self.transform.crops(frames[rows], spatial)])

    def indices(self, video: VideoSource, view: int | None, part: Part | None = None) -> np.ndarray:
        """Frame numbers (T,) of a temporal view, or of a random clip (view None).

        Args:
            video: The open video.
            view: Number of the view.
            part: The annotated part. One in seconds holds all views; of others, as released, only training clips are
                in the part.

        Raises:
            VideoError: The video has no such part.
        """
        data = self.cfg.DATA
        if part and part[2] != SECONDS and view is None:
            (start, end, total), frames = part, video.frames
            length, first = frames * (end - start) / total, int(frames * start / total)
            return sampling.sparse(length, data.NUM_FRAMES, start=first, last=frames - 1)
        inside = range(video.frames)
        if part and part[2] == SECONDS:
            inside = video.segment(*part[:2], data.FOLDER_FPS)
        if self.sampling == "sparse":
            return inside.start + sampling.sparse(len(inside), data.NUM_FRAMES, view, self.temporal_views)
        fps, target_fps = (video.fps, data.TARGET_FPS) if data.SAMPLE_BY_FPS and video.fps else (None, None)
        window = data.NUM_FRAMES, data.SAMPLING_RATE
        views = view, self.temporal_views, data.USE_OFFSET_SAMPLING
        return inside.start + sampling.dense(len(inside), *window, *views, fps, target_fps)
