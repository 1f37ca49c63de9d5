"""Other programs' ways to the same clips, written plainly: what the benchmark compares with."""

import itertools
import random
from types import SimpleNamespace

import av
import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch.nn.functional import interpolate

from slowfast_uniformer import rng
from slowfast_uniformer.data import sampling, transforms
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.decode import VideoInfo


def pil_item(dataset: VideoDataset, index: int) -> torch.Tensor:
    """The clips of `dataset[0, index]`, a video file, as programs make them that decode up to the last frame
    needed and keep a clip as a list of PIL images, then of tensors, normalised before it is cut."""
    cfg, transform, sample = dataset.cfg, dataset.transform, dataset.samples[index]
    with rng.seeded(cfg.RNG_SEED, 0, index):
        images = _pil_frames(dataset, sample.path)
        number = cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1
        return torch.stack([_pil_clip(images, transform, cfg) for _ in range(number)])


def _pil_frames(dataset: VideoDataset, path: str) -> list[Image.Image]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        total, fps = sum(packet.size > 0 for packet in container.demux(stream)), float(stream.average_rate)
        info = VideoInfo(total, fps, stream.width, stream.height, 0, "")
        wanted = dataset.indices(SimpleNamespace(info=info), None).tolist()
        container.seek(0)
        frames = itertools.islice(container.decode(stream), max(wanted) + 1)
        images = {number: frame.to_image() for number, frame in enumerate(frames) if number in wanted}
    return [images[number] for number in wanted]


def _pil_clip(images: list[Image.Image], transform: transforms.TrainTransform, cfg: CfgNode) -> torch.Tensor:
    if transform.augment:
        states, augmented = (random.getstate(), np.random.get_state()), []
        for image in images:
            random.setstate(states[0])
            np.random.set_state(states[1])
            augmented.append(transform.augment(image))
        images = augmented
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images]
    clip = torch.stack(tensors, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (cfg.DATA.MEAN, cfg.DATA.STD))
    (top, left, height, width), size, (y, x), flip = transform.cut(*clip.shape[2:])
    clip = ((clip - mean) / std)[:, :, top : top + height, left : left + width].transpose(0, 1)
    clip = interpolate(clip, size, mode="bilinear", align_corners=False).transpose(0, 1)
    clip = clip[..., y : y + transform.size, x : x + transform.size]
    clip = (clip.flip(-1) if flip else clip).contiguous()
    return transform.pixels.finish(transforms.erase(clip, *transform.erasing) if transform.erasing else clip)


def reopened_item(dataset: VideoDataset, index: int) -> torch.Tensor:
    """The clips of `dataset[0, index]` by opening and decoding the video for each view."""
    clips = []
    for view in range(dataset.views):
        temporal, spatial = sampling.split_view(view, dataset.spatial_crops)
        with dataset.open(dataset.samples[index]) as video:
            frames = video.read(dataset.indices(video, temporal))
        clips.append(dataset.transform(frames, spatial))
    return torch.stack(clips)
