"""A trained model with its config and class names, ready to answer."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast_uniformer.config.load import load_config, to_dict
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.loader import EpochSampler, loader_of
from slowfast_uniformer.data.video import FrameFolder
from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.inputs import frames_in
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.load import Weights, load_weights, read_weights

# What a run's config says of training, machines and places does not bind those who use its model.
_HERE = [
    "NUM_SHARDS",
    1,
    "SHARD_ID",
    0,
    "MODEL.INIT_FROM",
    "",
    "MODEL.USE_CHECKPOINT",
    False,
    "MODEL.PARALLEL",
    "ddp",
    "MODEL.COMPILE",
    False,
]
UNKNOWN_FPS = 25.0  # taken where a video does not tell
SPARSE_WINDOW = 4.0  # seconds, of models whose clips span a whole video
AT_ONCE = 8  # windows that are read together


class Span(NamedTuple):
    """Part of a video, in seconds, and the classes' mean probabilities (K,) in it."""

    start: float
    end: float
    probabilities: Tensor


def load_model(path: str | PathLike, cfg: str | Sequence[str] = (), overrides: Sequence[Any] = ()) -> "Predictor":
    """The model of a checkpoint, a run's folder (its best checkpoint, or its last) or a file of weights, on a
    GPU if there is one, else on the CPU.

    A run's checkpoint carries its config and class names; other weights need `cfg`, one or more YAML files.
    `overrides` is a flat KEY, VALUE, ... list. Raises UserError for a file that is none, that belongs to
    another model, or that lacks a config.
    """
    path = _checkpoint_of(fspath(path))
    given = read_weights(path)
    config = _config(given, path, cfg, overrides)
    model = build_model(config, given.arithmetic)
    names = given.class_names or annotations.class_names(config)
    load_weights(model, given, source=path)
    model.eval().requires_grad_(False).to(topology.device(config))
    return Predictor(config, model, list(names or map(str, range(config.MODEL.NUM_CLASSES))), path)


def config_of(path: str | PathLike, cfg: str | Sequence[str] = (), overrides: Sequence[Any] = ()) -> CfgNode:
    """The config that `load_model` would use."""
    path = _checkpoint_of(fspath(path))
    return _config(read_weights(path), path, cfg, overrides)


def _config(given: Weights, path: str, cfg: str | Sequence[str], overrides: Sequence[Any]) -> CfgNode:
    if not cfg and "cfg" not in given.about:
        raise UserError(f"{path}: carries no config; say with --cfg FILE.yaml which model it is of")
    devices = ["NUM_GPUS", min(1, torch.cuda.device_count())]
    return load_config(cfg or given.about["cfg"], [*devices, *_HERE, *overrides])


def _checkpoint_of(path: str) -> str:
    """The checkpoint that a run's folder means; any other path as it is."""
    if not os.path.isdir(path) or path.endswith(".dcp"):
        return path
    if found := checkpoints.find_best(path) or checkpoints.latest(path):
        return found
    raise UserError(f"{path}: a folder without checkpoints; name a run's OUTPUT_DIR, or a file of weights")


class Predictor:
    """A model in evaluation mode (`model`), its frozen config (`cfg`), class names in label order (`names`;
    the labels as text where nothing names them) and the file of its weights (`path`)."""

    def __init__(self, cfg: CfgNode, model: nn.Module, names: list[str], path: str = ""):
        self.cfg, self.model, self.names, self.path = cfg, model, names, path
        self.device = topology.device(cfg)

    @functools.cached_property
    def _fused(self) -> nn.Module:
        exact = self.cfg.TRAIN.MIXED_PRECISION == "none" and hasattr(self.model, "fuse")
        return self.model.fuse() if exact else self.model

    @functools.cached_property
    def _one_view(self) -> VideoDataset:
        """What takes a single view of a video."""
        cfg = self._with("TEST.NUM_ENSEMBLE_VIEWS", 1, "TEST.NUM_SPATIAL_CROPS", 1)
        return VideoDataset(cfg, "test", [])

    def _with(self, *overrides: Any) -> CfgNode:
        return load_config(to_dict(self.cfg), overrides)

    def open(self, sample: Sample) -> Video | FrameFolder:
        """A video, to be closed; UserError if it cannot be opened."""
        return self._one_view.open(sample)

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 (hexadecimal) of the weights, with their names, types and shapes."""
        digest = hashlib.sha256()
        for name, value in self.model.state_dict().items():
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def clip(self, source: Video | FrameFolder, at: float | None = None) -> tuple[np.ndarray, Tensor]:
        """Frame numbers (T,) and one clip (3, T, H, W) of an open video, from its middle, or all of it where
        clips span a whole video; with `at`, of the window (see `timeline`) in whose middle is that second."""
        fps = source.fps or UNKNOWN_FPS
        length, start = source.frames, 0.0
        if at is not None or self._one_view.sampling == "dense":
            length = min(self.span(fps) * fps, source.frames)
            middle = source.frames / 2 if at is None else at * fps
            start = min(max(middle - length / 2, 0), source.frames - length)
        numbers = np.array(self._numbers(source, int(start), length, fps))
        return numbers, self._one_view.transform(source.read(numbers))

    @torch.inference_mode()
    def _run(self, part_of_model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """What it makes of inputs (N, ...), at most TEST.BATCH_SIZE at once; float32 on the CPU."""
        with autocast(self.cfg, self.device):
            parts = [part_of_model(part.to(self.device)) for part in inputs.split(self.cfg.TEST.BATCH_SIZE)]
        return torch.cat(parts).float().cpu()

    def scores(self, clips: Tensor) -> Tensor:
        """Logits (N, K), float32 on the CPU, of normalised clips (N, 3, T, H, W)."""
        return self._run(self._fused, clips)

    def features(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """What the classifier reads of such clips, (N, C), and the logits (N, K) it makes of that."""
        found = self._run(self.model.forward_features, clips)
        return found, self._run(self.model.get_submodule(self.model.classifier[0]), found)

    def frame_features(self, clips: Tensor) -> Tensor:
        """The features of each frame, or pair of frames, of such clips, (N, T', C): for V1 and the light
        models what the mean over time is taken of, for UniFormerV2 the last layer's class tokens."""
        if not hasattr(self.model, "forward_frames"):
            raise UserError(f"MODEL.MODEL_NAME: {self.cfg.MODEL.MODEL_NAME} has no features of single frames")
        return self._run(self.model.forward_frames, clips)

    def probabilities(self, scores: Tensor) -> Tensor:
        """(K,) probabilities of a video whose views have these logits (N, K), put together as in testing."""
        cfg = self.cfg
        video = VideoAggregator(
            1, scores.shape[1], len(scores), cfg.DATA.ENSEMBLE_METHOD, cfg.TEST.ADD_SOFTMAX, cfg.DATA.MULTI_LABEL
        )
        video.update(
            scores,
            torch.zeros(len(scores), dtype=torch.int64),
            torch.arange(len(scores)),
            torch.full((len(scores),), UNLABELLED),
        )
        return video.probabilities()[0]

    def clips(self, videos: Iterable[Sample], workers: int = 0) -> Iterator[Tensor | UserError]:
        """The views (N, 3, T, H, W) of each video that testing takes, or why it cannot be read."""
        samples = [Sample(sample.path, self._no_label, sample.frames) for sample in videos]
        dataset = VideoDataset(self._with("DATA_LOADER.NUM_WORKERS", workers), "test", samples)
        loader = loader_of(dataset, EpochSampler(len(samples)), 1)
        for batch in worker_errors_explained(loader, dataset.cfg):
            yield batch["clips"] if batch["clips"] is not None else UserError(batch["errors"][0][1])

    @property
    def _no_label(self) -> int | tuple[int, ...]:
        return () if self.cfg.DATA.MULTI_LABEL else UNLABELLED

    def answers(self, videos: Iterable[Sample], workers: int = 0) -> Iterator[Tensor | UserError]:
        """Probabilities (K,) of each video from its views, or why it cannot be read."""
        for clips in self.clips(videos, workers):
            yield clips if isinstance(clips, UserError) else self.probabilities(self.scores(clips))

    def predict(self, video: str | PathLike, topk: int = 5) -> dict[str, Any]:
        """The answer to one video, a file or a folder of frames: see `answer`. UserError if it cannot be
        read."""
        (found,) = self.answers([as_sample(video, self.cfg)])
        if isinstance(found, UserError):
            raise found
        return self.answer(fspath(video), found, topk)

    def answer(self, video: str, probabilities: Tensor, topk: int = 5) -> dict[str, Any]:
        """`video`, its most probable `class` (name), that one's `label` and `probability`, and the `topk`
        most probable as a list of such."""
        best = probabilities.topk(min(topk, len(self.names)))
        top = [
            {"class": self.names[label], "label": label, "probability": round(probability, 6)}
            for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {"video": video, **top[0], "topk": top}

    def timeline(self, video: str | PathLike, window: float | None = None, step: float | None = None) -> list[Span]:
        """What a video shows as time goes by: spans of `step` seconds (half a window) on end, each with the
        mean of the windows that cover it.

        `window` is in seconds; None is what a clip of the model spans, or 4 where clips span a whole video.
        Raises UserError if the video cannot be read.
        """
        if (window is not None and window <= 0) or (step is not None and step <= 0):
            raise UserError("a timeline's window and step are seconds above 0")
        sample = as_sample(video, self.cfg)
        with self.open(sample) as source:
            fps = source.fps or UNKNOWN_FPS
            length = min((window or self.span(fps)) * fps, source.frames)
            stride = min((step * fps) if step else length / 2, length)
            starts = window_starts(source.frames, length, stride)
            found = [
                self._windows(source, starts[i : i + AT_ONCE], length, fps) for i in range(0, len(starts), AT_ONCE)
            ]
        return _spans(torch.cat(found), starts, length, source.frames, fps)

    def span(self, fps: float) -> float:
        """Seconds that a clip of the model spans."""
        data = self.cfg.DATA
        if self._one_view.sampling != "dense":
            return SPARSE_WINDOW
        return data.NUM_FRAMES * data.SAMPLING_RATE / (data.TARGET_FPS if data.SAMPLE_BY_FPS else fps)

    def _numbers(self, source: Video | FrameFolder, start: int, length: float, fps: float) -> list[int]:
        """Frame numbers of one view of `length` frames from `start` on."""
        numbers = self._one_view.indices(SimpleNamespace(frames=max(1, int(length)), fps=fps), 0)
        return [min(start + n, source.frames - 1) for n in numbers.tolist()]

    def _windows(self, source: Video | FrameFolder, starts: list[int], length: float, fps: float) -> Tensor:
        """Probabilities (N, K) of windows of `length` frames, from one view of each."""
        numbers = [self._numbers(source, start, length, fps) for start in starts]
        frames = source.read(sum(numbers, []))
        frames = frames.reshape(len(starts), -1, *frames.shape[1:])
        scores = self.scores(torch.stack([self._one_view.transform(each) for each in frames]))
        return torch.stack([self.probabilities(row[None]) for row in scores])


def window_starts(frames: int, length: float, stride: float) -> list[int]:
    """First frames of windows `stride` apart, the last of which ends with the video."""
    last = max(0, int(frames - length))
    starts = [int(n * stride) for n in range(int(last / stride) + 1)]
    if len(starts) > 1 and last - starts[-1] < stride / 2:  # no window that differs by a frame or two
        starts.pop()
    return starts if starts[-1] == last else [*starts, last]


def _spans(probabilities: Tensor, starts: list[int], length: float, frames: int, fps: float) -> list[Span]:
    """Between two windows' beginnings, and after the last between their ends, the mean of the windows that
    cover the middle."""
    begin = torch.tensor(starts, dtype=torch.float64)
    end = (begin + length).clamp(max=frames)
    end[-1] = frames
    edges = sorted({*starts, *(int(each) for each in end if each > starts[-1]), frames})
    spans = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        middle = (start + stop) / 2
        spans.append(Span(start / fps, stop / fps, probabilities[(begin <= middle) & (middle < end)].mean(0)))
    return spans


def as_sample(video: str | PathLike, cfg: CfgNode) -> Sample:
    """A video file, or a folder of frames named as DATA.IMAGE_TEMPLATE says."""
    return Sample(fspath(video), UNLABELLED, frames_in(fspath(video), cfg.DATA.IMAGE_TEMPLATE) or None)
