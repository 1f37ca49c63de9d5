"""A trained model with its config and class names, ready for inference."""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from slowfast_uniformer import paths, seeding
from slowfast_uniformer.config.compat import RENAMED
from slowfast_uniformer.config.load import flat_pairs, load_config, variant
from slowfast_uniformer.config.recipes import list_recipes
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.input_lists import path_sample
from slowfast_uniformer.data.list_text import SPACES
from slowfast_uniformer.data.loader import EpochSampler, loader_of
from slowfast_uniformer.data.raw_clips import RawClips
from slowfast_uniformer.data.video import VideoSource
from slowfast_uniformer.data.workers import worker_errors_explained
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.calibration import temperature_of
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model, require
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.log import Phase, write_line
from slowfast_uniformer.weights.load import Weights, load_weights, read_weights
from slowfast_uniformer.weights.registry import Checkpoint
from slowfast_uniformer.weights.resolve import Found, resolve

logger = logging.getLogger(__name__)

# What a run's config says about training and its machines does not apply to inference.
_INFERENCE_OVERRIDES = {
    "NUM_SHARDS": 1,
    "SHARD_ID": 0,
    "MODEL.INIT_FROM": "",
    "MODEL.INIT_HEAD": "keep",
    "MODEL.USE_CHECKPOINT": False,
    "MODEL.PARALLEL": "ddp",
    "MODEL.COMPILE": False,
    "TRACKER": "",
}
WINDOW_BATCH = 8  # windows decoded and classified together


class Span(NamedTuple):
    """An interval of a video from `start` to `end` (seconds) and the mean class probabilities (K,) in it."""

    start: float
    end: float
    probabilities: Tensor


def load_model(
    path: str | PathLike,
    cfg: str | Sequence[str] = (),
    overrides: Sequence[Any] | Mapping[str, Any] = (),
    allow_import: bool = False,
    allow_fetch: bool = False,
    new_head: bool = False,
) -> "Predictor":
    """Load a trained model for inference, on a GPU if there is one, else on the CPU.

    Args:
        path: a checkpoint, a run's folder (the checkpoint that its own test takes: the latest, or the best where its
            config.yaml sets TEST.TEST_BEST), a published folder or the address of one (hf://USER/NAME), a file of
            weights, or the name of a released checkpoint or of its recipe, such as "k400/uniformer_s" (`uniformer
            weights list`), which is fetched if need be.
        cfg: one or more YAML files. Checkpoints, published folders and released checkpoints have a config; other
            weights need this.
        overrides: a dict of values by key, or a flat KEY, VALUE, ... list, which wins over the config.
        allow_import: import the module that a config stored in the checkpoint names (MODEL.IMPORT).
        allow_fetch: fetch class names from an address that a config stored in the checkpoint names.
            `cfg` and `overrides` are the caller's own and need neither.
        new_head: leave the classifier out, for that of the config's classes and class names, newly initialised.

    Raises:
        UserError: no such file, no config, weights of another model, or a stored config that asks for an import or
            a fetch that is not allowed.
    """
    given = paths.expand(fspath(path))
    path, weights, config = _read(path, cfg, overrides, allow_import=allow_import, allow_fetch=allow_fetch)
    _say_which(given, path)
    if new_head:
        seeding.seed_all(config.RNG_SEED)
        model = build_model(config, weights.vit_variant)
        load_weights(model, weights, init_head="new", allow=config.MODEL.INIT_ALLOW, source=path)
        names = annotations.class_names(config)
        return _ready(config, model, names, path)
    model = build_model(config, weights.vit_variant)
    names = [name.strip(SPACES) for name in weights.class_names or ()] or annotations.class_names(config)
    remedy = "Give the config that it was trained with, with its MODEL.NUM_CLASSES; a new classifier is trained first"
    load_weights(model, weights, source=path, head_remedy=remedy)
    return _ready(config, model, names, path, temperature_of(config, weights.metadata, path))


def _say_which(given: str, path: str) -> None:
    """Say which checkpoint of a run's folder is taken, and which other one could be."""
    run = os.path.dirname(os.path.dirname(path))
    if path == given or not topology.is_main() or os.path.dirname(path) != checkpoints.checkpoint_dir(run):
        return
    own, best = checkpoints.list_checkpoints(run), checkpoints.find_best(run)
    which = f"{given}: using {os.path.relpath(path, run)}"
    if path == best and own:
        which += f", the best of its validations, as its test does (the latest is {os.path.basename(own[-1])})"
    elif best:
        which += f", the latest, as its test does (the best is {os.path.relpath(best, run)})"
    write_line(which)


def _ready(
    cfg: CfgNode, model: nn.Module, names: Sequence[str] | None, path: str, temperature: float = 1.0
) -> "Predictor":
    model.eval().requires_grad_(False).to(topology.device(cfg))
    return Predictor(cfg, model, list(names or map(str, range(cfg.MODEL.NUM_CLASSES))), path, temperature)


def config_of(new_head: bool = False, **arguments: Any) -> CfgNode:
    """The config that `load_model` would use; keyword arguments and errors are the same."""
    return _read(**arguments)[2]


def _read(
    path: str | PathLike,
    cfg: str | Sequence[str] = (),
    overrides: Sequence[Any] | Mapping[str, Any] = (),
    **allowed: bool,
) -> tuple[str, Weights, CfgNode]:
    """The path of a checkpoint, its content, and the config for inference.

    Args:
        path, cfg, overrides: as for `load_model`.
        allowed: `allow_import` and `allow_fetch` of `load_model`.
    """
    path, overrides = checkpoints.find_checkpoint(paths.expand(fspath(path))), flat_pairs(overrides)
    found = resolve(path)
    weights = read_weights(found.path)
    stored = weights.metadata.get("cfg")
    if found.checkpoint:
        cfg = cfg or _recipe(path, found.checkpoint)
    if not cfg and not isinstance(stored, dict):
        raise UserError(f"{path}: carries no config; name the one of its model with --cfg CONFIG")
    defaults = {"NUM_GPUS": min(1, torch.cuda.device_count()), **_INFERENCE_OVERRIDES}
    config = load_config(cfg or stored, [*(word for pair in defaults.items() for word in pair), *overrides])
    if found.checkpoint and not config.DATA.CLASS_NAMES:
        weights.metadata.setdefault("class_names", _released_names(found))
    callers = {RENAMED.get(key, key) for key in overrides[::2]}
    for action, key, value in [] if cfg else _stored_requests(config, weights):
        if key not in callers and not allowed.get(f"allow_{action}"):
            raise UserError(
                f"{path}: its stored config asks to {action} {value} ({key}). If you trust it, allow that with "
                f"--allow-{action} (in Python allow_{action}=True), or set {key} yourself"
            )
    return found.path, weights, config


def _recipe(name: str, checkpoint: Checkpoint) -> str | None:
    """The config of a released checkpoint: the recipe that was named, or else the one that it is the result of."""
    return name if name in list_recipes() else next(iter(checkpoint.recipes), None)


def _released_names(found: Found) -> list[str] | None:
    """The class names of a released checkpoint in the order of its classifier; None where it has none of these."""
    if found.classes and not found.classes_certain:
        logger.warning(
            "%s: the order of its classes is likely to be that of %s, but was not checked", found.path, found.classes
        )
    return found.class_names


def _stored_requests(config: CfgNode, weights: Weights) -> Iterator[tuple[str, str, str]]:
    """What inference with this config would import or fetch: the action, its key and the module or address.

    A checkpoint may come from anybody. It must not choose which code runs here, nor an address that is asked.
    """
    if config.MODEL.IMPORT:
        yield "import", "MODEL.IMPORT", config.MODEL.IMPORT
    # Class names are all that inference reads by a config: from the first of these places that is set.
    for key in ("CLASS_NAMES", "PATH_TO_DATA_DIR") if not weights.class_names else ():
        if place := config.DATA[key]:
            if "://" in place:
                yield "fetch", f"DATA.{key}", place
            return


class Predictor:
    """A trained model for inference (see `load_model`).

    Attributes:
        cfg: the frozen config.
        model: the PyTorch module, in evaluation mode.
        names: class names in label order; the labels as text where nothing names them.
        path: the file of its weights.
        device: where the model is.
        temperature: of probabilities (TEST.TEMPERATURE).
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, names: list[str], path: str = "", temperature: float = 1.0):
        self.cfg, self.model, self.names, self.path, self.temperature = cfg, model, names, path, temperature
        self.device = topology.device(cfg)

    @cached_property
    def _fused(self) -> nn.Module:
        """The model with batch norms fused, which is exact in fp32 only."""
        exact = self.cfg.TRAIN.MIXED_PRECISION == "none" and hasattr(self.model, "fuse")
        return self.model.fuse() if exact else self.model

    @cached_property
    def _one_view(self) -> VideoDataset:
        """Opens videos and takes a single view of them."""
        return VideoDataset(variant(self.cfg, ["TEST.NUM_ENSEMBLE_VIEWS", 1, "TEST.NUM_SPATIAL_CROPS", 1]), "test", [])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 (hexadecimal) of the weights with their names, dtypes and shapes."""
        digest = hashlib.sha256()
        for name, value in self.model.state_dict().items():
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    # -------------------------------------------------------------------------------------------- reading videos
    def open(self, sample: Sample) -> VideoSource:
        """Open a video; the caller closes it. UserError if it cannot be opened."""
        return self._one_view.open(sample)

    def clips(
        self, samples: Iterable[Sample], workers: int = 0, longer_than: float = math.inf
    ) -> Iterator[Tensor | UserError | VideoSource | None]:
        """Read the test views of videos, each of which is opened once, when its turn comes.

        Args:
            samples: the videos, or segments of videos; labels do not matter.
            workers: DataLoader workers that read ahead; 0 reads in this process.
            longer_than: seconds. Longer videos are not read, but segments are.

        Yields:
            For each video, in order: its views (N, 3, T, H, W), normalised; a UserError that says why it cannot be
            read; or, if it is longer than `longer_than`, the open video, to be closed, or None when a worker opened it.
        """
        label = () if self.cfg.DATA.MULTI_LABEL else UNLABELLED
        samples = [replace(sample, label=label) for sample in samples]
        dataset = _TestViews(variant(self.cfg, ["DATA_LOADER.NUM_WORKERS", workers]), samples, longer_than)
        loader = loader_of(dataset, EpochSampler(len(samples)), 1)
        loader.collate_fn = itemgetter(0)  # of a batch of one
        for found in worker_errors_explained(loader, dataset.cfg):
            yield found.make(self.device) if isinstance(found, RawClips) else found

    def clip(self, video: VideoSource, at: float | None = None) -> tuple[np.ndarray, Tensor]:
        """Read one clip of an open video.

        Args:
            video: an open video.
            at: seconds; the clip is the window (see `timeline`) around it. None is the middle of the video, or all of
                it for models whose clips span a whole video.

        Returns:
            Frame numbers (T,) and the normalised clip (3, T, H, W).
        """
        fps = fps_of(video)
        length, start = video.frames, 0.0
        if at is not None or self._one_view.sampling == "dense":
            length = min(self.clip_seconds(fps) * fps, video.frames)
            middle = video.frames / 2 if at is None else at * fps
            start = min(max(middle - length / 2, 0), video.frames - length)
        numbers = np.array(self._frame_numbers(video, int(start), length))
        return numbers, self._one_view.transform(video.read(numbers))

    def clip_seconds(self, fps: float) -> float:
        """Seconds that a clip spans in a video of `fps` frames per second; 4 where clips span a whole video."""
        data = self.cfg.DATA
        if self._one_view.sampling != "dense":
            return 4.0
        return data.NUM_FRAMES * data.SAMPLING_RATE / (data.TARGET_FPS if data.SAMPLE_BY_FPS else fps)

    def _frame_numbers(self, video: VideoSource, start: int, length: float) -> list[int]:
        """Frame numbers of one view of the `length` frames from `start` on."""
        window = SimpleNamespace(frames=max(1, int(length)), fps=fps_of(video))
        return [min(start + n, video.frames - 1) for n in self._one_view.indices(window, 0).tolist()]

    # ------------------------------------------------------------------------------------------ running the model
    @torch.inference_mode()
    def _run(self, module: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Outputs for inputs (N, ...), in batches of at most TEST.BATCH_SIZE; float32 on the CPU."""
        with autocast(self.cfg, self.device):
            outputs = [module(batch.to(self.device)) for batch in inputs.split(self.cfg.TEST.BATCH_SIZE)]
        return torch.cat(outputs).float().cpu()

    def logits(self, clips: Tensor) -> Tensor:
        """Logits (N, K), float32 on the CPU, of normalised clips (N, 3, T, H, W)."""
        return self._run(self._fused, clips)

    def features(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier's inputs (N, C) for normalised clips (N, 3, T, H, W), and its logits (N, K)."""
        require(self.model, "forward_features", "features")
        features = self._run(self.model.forward_features, clips)
        return features, self._run(self.model.get_submodule(self.model.classifier[0]), features)

    def tokens(self, clips: Tensor, grid: int) -> Tensor:
        """Features and tokens of normalised clips (N, 3, T, H, W), what heads are fitted to.

        Returns:
            (N, T', 1 + M, C), float32 on the CPU: the input of the (linear) classifier, repeated for each frame or
            pair of frames, and its tokens (see `forward_tokens` in models/registry.py). A model without these gives
            (N, 1, 1, C).
        """

        def together(batch: Tensor) -> Tensor:
            if not hasattr(self.model, "forward_tokens"):
                return self.model.forward_features(batch)[:, None, None]
            features, tokens = self.model.forward_tokens(batch, grid)
            features = features[:, None, None].expand(-1, tokens.shape[1], 1, -1)
            return torch.cat((features.to(tokens.dtype), tokens), dim=2)

        require(self.model, "forward_features", "features")
        return self._run(together, clips)

    def frame_features(self, clips: Tensor) -> Tensor:
        """Features (N, T', C) of each frame, or pair of frames, of normalised clips (N, 3, T, H, W).

        For V1 and the light models their mean over time is `features`; for UniFormerV2 they are the last layer's
        class tokens. UserError if the model has no such features.
        """
        if not hasattr(self.model, "forward_frames"):
            raise UserError(f"MODEL.MODEL_NAME: {self.cfg.MODEL.MODEL_NAME} has no features of single frames")
        return self._run(self.model.forward_frames, clips)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (K,) of a video from the logits (N, K) of its views, combined as in testing."""
        cfg, (views, classes) = self.cfg, logits.shape
        video = VideoAggregator(1, classes, views, cfg.DATA.ENSEMBLE_METHOD, cfg.TEST.ADD_SOFTMAX, cfg.DATA.MULTI_LABEL)
        zeros = torch.zeros(views, dtype=torch.int64)
        video.update(logits, zeros, torch.arange(views), torch.full_like(zeros, UNLABELLED))
        return video.probabilities(self.temperature)[0]

    # ------------------------------------------------------------------------------------------------ predictions
    def predict(self, video: str | PathLike, topk: int = 5) -> dict[str, Any]:
        """Classify one video, a file or a folder of frames, from its test views.

        Returns:
            A dict as `result` makes it.

        Raises:
            UserError: the video cannot be read.
        """
        (clips,) = self.clips([as_sample(video, self.cfg)])
        if isinstance(clips, UserError):
            raise clips
        return self.result(fspath(video), self.probabilities(self.logits(clips)), topk)

    def result(self, video: str, probabilities: Tensor, topk: int = 5) -> dict[str, Any]:
        """A prediction as plain values: `video`, its most probable `class` (name) with `label` and `probability`, and
        `topk`, the most probable classes as dicts with the same three keys."""
        best = probabilities.topk(min(topk, len(self.names)))
        top = [
            {"class": self.names[label], "label": label, "probability": round(probability, 6)}
            for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {"video": video, **top[0], "topk": top}

    def timeline(self, video: str | PathLike, window: float | None = None, step: float | None = None) -> list[Span]:
        """Classify a video over time with sliding windows.

        Args:
            video: a file or a folder of frames.
            window: seconds; None is what a clip of the model spans, or 4 where clips span a whole video.
            step: seconds between windows; None is half a window.

        Returns:
            Adjacent spans, of `step` seconds; each has the mean probabilities of the windows that cover it.

        Raises:
            UserError: the video cannot be read, or a length is not positive.
        """
        with self.open(as_sample(video, self.cfg)) as source:
            return self.open_timeline(source, window, step)

    def open_timeline(self, video: VideoSource, window: float | None = None, step: float | None = None) -> list[Span]:
        """`timeline` of an open video."""
        starts, length = self.windows(video, window, step)
        fps = fps_of(video)
        found = []
        with Phase("timeline of a video", len(starts), "window", bar=False) as phase:
            for i in range(0, len(starts), WINDOW_BATCH):
                found.append(self._classify_windows(video, starts[i : i + WINDOW_BATCH], length))
                phase.advance(WINDOW_BATCH)
        probabilities = torch.cat(found)
        # Spans between the starts of consecutive windows (after the last start, between the windows' ends), each with
        # the mean of the windows that cover its middle
        begin = torch.tensor(starts, dtype=torch.float64)
        end = (begin + length).clamp(max=video.frames)
        end[-1] = video.frames
        edges = sorted({*starts, *(int(stop) for stop in end if stop > starts[-1]), video.frames})
        spans = []
        for start, stop in pairwise(edges):
            middle = (start + stop) / 2
            spans.append(Span(start / fps, stop / fps, probabilities[(begin <= middle) & (middle < end)].mean(0)))
        return spans

    def windows(
        self, video: VideoSource, window: float | None = None, step: float | None = None, gaps: bool = False
    ) -> tuple[list[int], float]:
        """The sliding windows of `timeline` over an open video: their first frames, and their length in frames.

        `gaps` says whether a step may be longer than a window.
        """
        if (window is not None and window <= 0) or (step is not None and step <= 0):
            raise UserError("the window and step of a timeline must be above 0 (seconds)")
        fps = fps_of(video)
        length = min((window or self.clip_seconds(fps)) * fps, video.frames)
        stride = step * fps if step else length / 2
        return window_starts(video.frames, length, stride if gaps else min(stride, length)), length

    def window_clips(self, video: VideoSource, starts: Sequence[int], length: float) -> Tensor:
        """Normalised clips (N, 3, T, H, W) of windows of `length` frames, one view of each."""
        numbers = [self._frame_numbers(video, start, length) for start in starts]
        frames = video.read(sum(numbers, []))
        frames = frames.reshape(len(starts), -1, *frames.shape[1:])
        return torch.stack([self._one_view.transform(window) for window in frames])

    def _classify_windows(self, video: VideoSource, starts: list[int], length: float) -> Tensor:
        """Probabilities (N, K) of windows of `length` frames, from one view of each."""
        logits = self.logits(self.window_clips(video, starts, length))
        return torch.stack([self.probabilities(row[None]) for row in logits])


class _TestViews(VideoDataset):
    """The test split, whose items are what `Predictor.clips` yields."""

    def __init__(self, cfg: CfgNode, samples: list[Sample], longer_than: float):
        super().__init__(cfg, "test", samples)
        self.longer_than = longer_than

    def __getitem__(self, key: tuple[int, int]) -> Tensor | RawClips | UserError | VideoSource | None:
        try:
            self._video = super().open(self.samples[key[1]])
        except UserError as error:
            return UserError(str(error))
        if self.samples[key[1]].segment or duration(self._video) <= self.longer_than:
            item = super().__getitem__(key)
            return UserError(item["errors"][0].cause) if item["clips"] is None else item["clips"]
        if get_worker_info() is None:
            return self._video
        self._video.close()  # an open video cannot be sent to another process

    def open(self, sample: Sample) -> VideoSource:
        """The video that `__getitem__` has opened to see how long it is."""
        return self._video


def fps_of(video: VideoSource) -> float:
    """Frames per second; 25 of videos that do not state their frame rate."""
    return video.fps or 25.0


def duration(video: VideoSource) -> float:
    """Length in seconds."""
    return video.frames / fps_of(video)


def window_starts(frames: int, length: float, stride: float) -> list[int]:
    """First frames of windows `stride` apart, the last of which ends with the video."""
    last = max(0, int(frames - length))
    starts = [int(n * stride) for n in range(int(last / stride) + 1)]
    if len(starts) > 1 and last - starts[-1] < stride / 2:  # no window that differs by a frame or two
        starts.pop()
    return starts if starts[-1] == last else [*starts, last]


def as_sample(video: str | PathLike, cfg: CfgNode) -> Sample:
    """A video file, or a folder of frames named as DATA.IMAGE_TEMPLATE says, without a label."""
    return path_sample(fspath(video), cfg.DATA.IMAGE_TEMPLATE)
