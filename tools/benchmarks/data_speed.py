"""Speed of the data pipeline: by stage, in DataLoader workers, beside a training step, and against baselines.

CPU time is that of this process with all its threads. Baselines are interleaved; the minimum of the repeats counts.
"""

import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from baselines import pil_item, pil_views_item, reopened_item
from fvcore.common.config import CfgNode
from timing import interleaved
from torch.utils.data import DataLoader

from slowfast_uniformer import seeding
from slowfast_uniformer.config.load import variant
from slowfast_uniformer.data.augment import augment
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import build_loader, collate
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.data.transforms import fill_patches, random_patches
from slowfast_uniformer.distributed.topology import clips_per_video
from slowfast_uniformer.engine.prefetch import prefetch
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.checkpoints import list_checkpoints

REPEATS = 3  # of baselines


class Stopwatch(Counter):
    """CPU seconds by the name of a stage: `with watch("decode"): ...`"""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self[name] += time.process_time() - start


def sample_of(dataset: VideoDataset, videos: int) -> list[int]:
    """Indices of this many videos (or of all), evenly spread over the list."""
    return np.linspace(0, len(dataset) - 1, min(videos, len(dataset))).round().astype(int).tolist()


def stages(cfg: CfgNode, videos: int) -> dict[str, Any]:
    """CPU milliseconds of a training clip by stage, and clips per CPU second of items and their batches.

    `open` indexes a video's frames; `decode` includes conversion to RGB.
    """
    dataset, watch = VideoDataset(cfg, "train"), Stopwatch()
    chosen = sample_of(dataset, videos)
    _stages_of_video(dataset, chosen[0], Stopwatch())  # warm-up
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
    with seeding.seeded(dataset.cfg.RNG_SEED, 0, index):
        with watch("open"):
            video = dataset.open(dataset.samples[index])
        with video, watch("decode"):
            frames = video.read(dataset.indices(video, None))
        transform = dataset.transform
        for _ in range(clips_per_video(dataset.cfg)):  # as with AUG.DEVICE cpu
            augmented = frames
            if transform.augment:
                with watch("augment"):
                    augmented = augment(frames, transform.augment(*frames.shape[1:3]))
            with watch("crop and normalise"):
                crop = transform.random_crop(*augmented.shape[1:3])
                clip = transform.maker.clip(augmented, crop, transform.size, transform.size)
            if transform.erasing:
                with watch("erase"):
                    fill_patches(clip, random_patches(clip.shape, *transform.erasing))
            with watch("crop and normalise"):
                transform.maker.channel_order(clip)


def _endless(loader: DataLoader) -> Iterator[dict[str, Any]]:
    """Batches of one epoch after the other."""
    for epoch in itertools.count():
        loader.sampler.epoch = epoch
        for batch in loader:
            if batch["failed"]:
                raise UserError(batch["errors"][-1][1])
            yield batch


def loading(cfg: CfgNode, videos: int) -> dict[str, float]:
    """Clips per second that a DataLoader delivers to a process that does nothing else.

    Measured after each worker (DATA_LOADER.NUM_WORKERS) has delivered a batch.
    """
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
    """Seconds of a training step and per cent of them that it waits for data, after two steps that fill buffers."""
    run, loader = start_run(cfg, None), build_loader(cfg, "train")
    mixup = Mixup(cfg) if cfg.MIXUP.ENABLE else None
    run.model.train()
    batches = itertools.islice(_endless(loader), steps + 2)
    waited, start = 0.0, time.perf_counter()
    for step, (batch, seconds) in enumerate(prefetch(batches, run.device)):
        waited += seconds
        result = training_step(run, batch["clips"], batch["labels"], mixup)
        if step == 1:
            result.loss.item()  # waits for a GPU
            waited, start = 0.0, time.perf_counter()
    result.loss.item()
    total = time.perf_counter() - start
    return {"steps": steps, "seconds_per_step": total / steps, "waiting_percent": 100 * waited / total}


def _compare(dataset: VideoDataset, videos: int, **baselines: Callable[..., Any]) -> tuple[int, dict[str, float]]:
    """The number of videos, and CPU seconds of dataset[0, index] ("ours") and of each baseline(dataset, index)."""
    functions = {"ours": lambda dataset, index: dataset[0, index], **baselines}
    chosen, total = sample_of(dataset, videos), Counter()
    for index in chosen:
        total += Counter(interleaved({name: partial(f, dataset, index) for name, f in functions.items()}, REPEATS))
    return len(chosen), total


def compare_pil(cfg: CfgNode, videos: int) -> dict[str, float]:
    """Training clips per CPU second, against the same clips from lists of PIL images (`pil_item`)."""
    videos, spent = _compare(VideoDataset(cfg, "train"), videos, pil=pil_item)
    clips = videos * clips_per_video(cfg)
    rates = {name: clips / seconds for name, seconds in spent.items()}
    return {"clips": clips, **rates, "ratio": spent["pil"] / spent["ours"]}


def compare_reopen(cfg: CfgNode, videos: int) -> dict[str, float]:
    """Test videos per CPU second with all views from one opening, against an opening for each view.

    Baselines: `pil_views_item`, and this program's decoder (`reopened_item`).
    """
    dataset = VideoDataset(cfg, "test")
    videos, spent = _compare(dataset, videos, reference=pil_views_item, reopen=reopened_item)
    rates = {name: videos / seconds for name, seconds in spent.items()}
    ratios = {f"{name}_ratio": spent[name] / spent["ours"] for name in ("reference", "reopen")}
    return {"views": dataset.views, "videos": videos, **rates, **ratios}


def checkpoints(cfg: CfgNode, times: int) -> dict[str, float]:
    """Seconds that training waits for background checkpoint writing, and seconds of writing alone.

    The minimum of so many `times` counts. Clips are random; the files go to OUTPUT_DIR and are removed.
    """
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cfg.OUTPUT_DIR) as folder:
        run = start_run(variant(cfg, ["OUTPUT_DIR", folder]), None)
        run.model.train()
        size = cfg.DATA.TRAIN_CROP_SIZE
        clips = torch.randn(cfg.TRAIN.BATCH_SIZE, 3, cfg.DATA.NUM_FRAMES, size, size)
        labels = torch.randint(cfg.MODEL.NUM_CLASSES, (len(clips),))
        training_step(run, clips, labels)  # creates the optimizer's state
        written, waited, steps = [], [], []
        for _ in range(times):
            start = time.perf_counter()
            run.save()
            run.saver.finish(raise_on_failure=True)
            written.append(time.perf_counter() - start)
            before, start = run.saver.waited, time.perf_counter()
            run.save()
            training_step(run, clips, labels).loss.item()  # waits for a GPU
            steps.append(time.perf_counter() - start)
            waited.append(run.saver.waited - before)
            run.saver.finish(raise_on_failure=True)
        size = sum(os.path.getsize(path) for path in list_checkpoints(folder)[-1:])
    return {
        "parameters": sum(p.numel() for p in run.net.parameters()),
        "megabytes": size / 1e6,
        "seconds_written": min(written),
        "seconds_waited": min(waited),
        "waited_percent": 100 * min(waited) / min(written),
        "seconds_per_step_beside": min(steps),
    }
