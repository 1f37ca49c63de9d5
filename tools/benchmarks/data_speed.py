"""How fast data is read: by stage, by loading processes, beside a training step and beside plainer programs.

CPU time is of this process and all its threads. Rivals take turns, and the least of the turns counts.
"""

import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from baselines import pil_item, plain_views_item, reopened_item
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from slowfast_uniformer import seeding
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import build_loader, collate
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.data.transforms import TrainTransform, erase
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.engine.train import timed
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.checkpoints import list_checkpoints

TURNS = 3
Item = Callable[[int], Any]


class Stopwatch(Counter):
    """CPU seconds by the name of what was done: `with watch("decode"): ...`"""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self[name] += time.process_time() - start


def sample_of(dataset: VideoDataset, videos: int) -> list[int]:
    """Indices of so many videos, or of all if there are fewer, evenly over the list."""
    return np.linspace(0, len(dataset) - 1, min(videos, len(dataset))).round().astype(int).tolist()


def stages(cfg: CfgNode, videos: int) -> dict[str, Any]:
    """CPU milliseconds a training clip by stage, and clips per CPU second of whole items and their batches.

    `open` finds a video's frames, `decode` also makes them RGB; the others are parts of the transform.
    """
    dataset, watch = VideoDataset(cfg, "train"), Stopwatch()
    chosen = sample_of(dataset, videos)
    _stages_of_video(dataset, chosen[0], Stopwatch())  # the first use of anything takes longer
    for index in chosen:
        _stages_of_video(dataset, index, watch)
    with watch("items"):
        items = [dataset[0, index] for index in chosen]
    for start in range(0, len(items), cfg.TRAIN.BATCH_SIZE):
        with watch("collate"):
            collate(items[start : start + cfg.TRAIN.BATCH_SIZE])
    clips = sum(len(item["clips"]) for item in items)
    names = ("open", "decode", "augment", "crop and normalise", "erase", "collate")
    rate = clips / (watch["items"] + watch["collate"])
    milliseconds = {name: 1e3 * watch[name] / clips for name in names}
    return {"clips": clips, "cpu_ms_per_clip": milliseconds, "clips_per_core_second": rate}


def _stages_of_video(dataset: VideoDataset, index: int, watch: Stopwatch) -> None:
    aug, transform = dataset.cfg.AUG, dataset.transform
    with seeding.seeded(dataset.cfg.RNG_SEED, 0, index):
        with watch("open"):
            video = dataset.open(dataset.samples[index])
        with video, watch("decode"):
            frames = video.read(dataset.indices(video, None))
        for _ in range(aug.NUM_SAMPLE if aug.ENABLE else 1):
            _stages_of_clip(transform, frames, watch)


def _stages_of_clip(transform: TrainTransform, frames: np.ndarray, watch: Stopwatch) -> None:
    if transform.augment:
        with watch("augment"):
            frames = transform.augment(frames)
    with watch("crop and normalise"):
        cut = transform.cut(*frames.shape[1:3])
        clip = transform.pixels.finish(transform.pixels.clip(frames, cut, transform.size, transform.size))
    if transform.erasing:
        with watch("erase"):
            erase(clip, *transform.erasing)


def _endless(loader: DataLoader) -> Iterator[dict[str, Any]]:
    """Batches of one epoch after the other."""
    for epoch in itertools.count():
        loader.sampler.epoch = epoch
        for batch in loader:
            if batch["failed"]:
                raise UserError(batch["errors"][-1][1])
            yield batch


def loading(cfg: CfgNode, videos: int) -> dict[str, float]:
    """Clips per second that the training loader delivers to a process that does nothing else, after its
    processes (DATA_LOADER.NUM_WORKERS) have delivered a batch each."""
    loader, workers = build_loader(cfg, "train"), max(1, cfg.DATA_LOADER.NUM_WORKERS)
    rounds = -(-videos // (loader.batch_size * workers))
    batches = _endless(loader)
    for _ in range(workers):
        next(batches)
    start = time.perf_counter()
    clips = sum(len(next(batches)["labels"]) for _ in range(rounds * workers))
    rate = clips / (time.perf_counter() - start)
    return {
        "workers": cfg.DATA_LOADER.NUM_WORKERS,
        "clips": clips,
        "clips_per_second": rate,
        "clips_per_second_per_worker": rate / workers,
    }


def waiting(cfg: CfgNode, steps: int) -> dict[str, float]:
    """Seconds a training step, and which share of them (per cent) it waits for data; after two that are not
    counted, in which buffers fill."""
    run, loader = start_run(cfg, None), build_loader(cfg, "train")
    mixup = Mixup.from_config(cfg) if cfg.MIXUP.ENABLE else None
    run.model.train()
    waited, start = 0.0, time.perf_counter()
    for step, (batch, seconds) in enumerate(timed(itertools.islice(_endless(loader), steps + 2))):
        waited += seconds
        clips, targets = batch["clips"], batch["labels"]
        training_step(run, *(mixup(clips, targets) if mixup else (clips, targets)))
        if step == 1:
            waited, start = 0.0, time.perf_counter()
    total = time.perf_counter() - start
    return {"steps": steps, "seconds_per_step": total / steps, "waiting_percent": 100 * waited / total}


def _compare(ways: list[Item], indices: list[int]) -> list[float]:
    """CPU seconds of each way, all indices together."""
    least = np.full((len(indices), len(ways)), np.inf)
    for turn, (row, index) in itertools.product(range(TURNS), enumerate(indices)):
        for side in np.roll(range(len(ways)), turn):
            start = time.process_time()
            ways[side](index)
            least[row, side] = min(least[row, side], time.process_time() - start)
    return least.sum(0).tolist()


def compare_pil(cfg: CfgNode, videos: int) -> dict[str, float]:
    """Training clips per CPU second, beside the same clips from lists of PIL images (`pil_item`)."""
    dataset = VideoDataset(cfg, "train")
    chosen = sample_of(dataset, videos)
    clips = len(chosen) * (cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1)
    ours, theirs = _compare([lambda i: dataset[0, i], lambda i: pil_item(dataset, i)], chosen)
    return {"clips": clips, "ours": clips / ours, "pil": clips / theirs, "ratio": theirs / ours}


def compare_reopen(cfg: CfgNode, videos: int) -> dict[str, float]:
    """Test videos per CPU second, all views of one opening, beside an opening for each view: by a plain
    program (`plain_views_item`), and by this one's own means (`reopened_item`)."""
    dataset = VideoDataset(cfg, "test")
    chosen = sample_of(dataset, videos)
    others = (lambda i: plain_views_item(dataset, i), lambda i: reopened_item(dataset, i))
    ours, plain, reopen = _compare([lambda i: dataset[0, i], *others], chosen)
    rates = {"ours": len(chosen) / ours, "plain": len(chosen) / plain, "reopen": len(chosen) / reopen}
    return {
        "views": dataset.views,
        "videos": len(chosen),
        **rates,
        "plain_ratio": plain / ours,
        "reopen_ratio": reopen / ours,
    }


def checkpoints(cfg: CfgNode, times: int) -> dict[str, float]:
    """Seconds that training waits for a checkpoint which is written beside it, and those that writing one
    takes when nothing else happens; least of so many `times`. Clips are random; the files go to OUTPUT_DIR
    and are removed."""
    with tempfile.TemporaryDirectory(dir=_made(cfg.OUTPUT_DIR)) as folder:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        run = start_run(cfg, None)
        run.model.train()
        size = cfg.DATA.TRAIN_CROP_SIZE
        clips = torch.randn(cfg.TRAIN.BATCH_SIZE, 3, cfg.DATA.NUM_FRAMES, size, size)
        labels = torch.randint(cfg.MODEL.NUM_CLASSES, (len(clips),))
        training_step(run, clips, labels)  # makes the optimizer's state
        written, waited, steps = [], [], []
        for _ in range(times):
            start = time.perf_counter()
            run.save()
            run.saver.finish(must=True)
            written.append(time.perf_counter() - start)
            before, start = run.saver.waited, time.perf_counter()
            run.save()
            training_step(run, clips, labels)
            steps.append(time.perf_counter() - start)
            waited.append(run.saver.waited - before)
            run.saver.finish(must=True)
        size = sum(os.path.getsize(path) for path in list_checkpoints(folder)[-1:])
    return {
        "parameters": sum(p.numel() for p in run.net.parameters()),
        "megabytes": size / 1e6,
        "seconds_written": min(written),
        "seconds_waited": min(waited),
        "waited_percent": 100 * min(waited) / min(written),
        "seconds_per_step_beside": min(steps),
    }


def _made(folder: str) -> str:
    os.makedirs(folder, exist_ok=True)
    return folder
