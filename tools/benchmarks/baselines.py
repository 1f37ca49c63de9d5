"""Baselines of the data pipeline: the same clips as other programs make them."""

import itertools
import random
from types import SimpleNamespace

import av
import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch.nn.functional import interpolate

from slowfast_uniformer import seeding
from slowfast_uniformer.data import sampling
from slowfast_uniformer.data.augment import image_augment
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.transforms import (
    TrainTransform,
    ViewTransform,
    fill_patches,
    random_patches,
    short_side_size,
    view_corner,
)
from slowfast_uniformer.distributed.topology import clips_per_video


def pil_item(dataset: VideoDataset, index: int) -> torch.Tensor:
    """The clips of `dataset[0, index]`, a video file, with PIL.

    Decodes up to the last frame needed; a clip is a list of PIL images, then of tensors, normalised before the crop.
    """
    cfg = dataset.cfg
    with seeding.seeded(cfg.RNG_SEED, 0, index):
        images = _pil_frames(dataset, index, None)
        return torch.stack([_pil_clip(images, dataset.transform, cfg) for _ in range(clips_per_video(cfg))])


def pil_views_item(dataset: VideoDataset, index: int) -> torch.Tensor:
    """The views of `dataset[0, index]` as `pil_item` makes clips; each view opens the file."""
    clips = []
    for view in range(dataset.views):
        temporal, spatial = sampling.split_view(view, dataset.spatial_crops)
        clip = _normalised(_pil_frames(dataset, index, temporal), dataset.cfg)
        size = short_side_size(*clip.shape[2:], dataset.transform.size)
        corner = view_corner(*size, dataset.transform.size, spatial)
        clips.append(dataset.transform.maker.channel_order(_cut(clip, dataset.transform, size, corner)))
    return torch.stack(clips)


def reopened_item(dataset: VideoDataset, index: int) -> torch.Tensor:
    """The views of `dataset[0, index]` with this program's decoder and transforms; each view opens the file."""
    clips = []
    for view in range(dataset.views):
        temporal, spatial = sampling.split_view(view, dataset.spatial_crops)
        with dataset.open(dataset.samples[index]) as video:
            frames = video.read(dataset.indices(video, temporal))
        clips.append(dataset.transform(frames, spatial))
    return torch.stack(clips)


def _pil_frames(dataset: VideoDataset, index: int, view: int | None) -> list[Image.Image]:
    with av.open(dataset.samples[index].path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        total, fps = sum(packet.size > 0 for packet in container.demux(stream)), float(stream.average_rate)
        wanted = dataset.indices(SimpleNamespace(frames=total, fps=fps), view).tolist()
        container.seek(0)
        frames = itertools.islice(container.decode(stream), max(wanted) + 1)
        images = {number: frame.to_image() for number, frame in enumerate(frames) if number in wanted}
    return [images[number] for number in wanted]


def _normalised(images: list[Image.Image], cfg: CfgNode) -> torch.Tensor:
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images]
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (cfg.DATA.MEAN, cfg.DATA.STD))
    return (torch.stack(tensors, 1) - mean) / std


def _cut(
    clip: torch.Tensor, transform: TrainTransform | ViewTransform, size: tuple[int, int], corner: tuple[int, int]
) -> torch.Tensor:
    clip = interpolate(clip.transpose(0, 1), size, mode="bilinear", align_corners=False).transpose(0, 1)
    (y, x), side = corner, transform.size
    return clip[..., y : y + side, x : x + side]


def _pil_clip(images: list[Image.Image], transform: TrainTransform, cfg: CfgNode) -> torch.Tensor:
    if transform.augment:
        augment = image_augment(cfg.AUG.AA_TYPE, cfg.AUG.INTERPOLATION)
        states, augmented = (random.getstate(), np.random.get_state()), []
        for image in images:
            random.setstate(states[0])
            np.random.set_state(states[1])
            augmented.append(augment(image))
        images = augmented
    clip = _normalised(images, cfg)
    (top, left, height, width), size, corner, flip = transform.random_crop(*clip.shape[2:])
    clip = _cut(clip[:, :, top : top + height, left : left + width], transform, size, corner)
    clip = (clip.flip(-1) if flip else clip).contiguous()
    patches = random_patches(clip.shape, *transform.erasing) if transform.erasing else ()
    return transform.maker.channel_order(fill_patches(clip, patches))
