"""Does the device get its clips: the rate of transforms, and the share of a training that waits for data."""

import os
from itertools import cycle
from pathlib import Path
from typing import Any

import data_speed
import torch
from decode import render
from fvcore.common.config import CfgNode
from timing import median_seconds

from gpu_parts.cases import Case, Row
from gpu_parts.speed import TINY, TINY_CLIPS, precision
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import collate
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.job import train_run
from slowfast_uniformer.runs.files import read_json_lines

RECIPE = str(Path(__file__).resolve().parents[3] / "configs/k400/uniformer_s.yaml")
WORKERS = {True: (4, 8, 16), False: (1, 2)}  # on a GPU, and in the dry run
PLACES = ("cpu", "device")  # AUG.DEVICE
ROUNDS = 4  # of batches that all workers make. In the first one they begin, in the last one they end.


def cases(gpus: int, folder: str) -> list[Case]:
    """The cases of this part; `gpus` 0 is the dry run on the CPU."""
    shared = {"gpus": gpus, "folder": folder}
    found = [Case(f"transforms, {place}", transform_rate, {**shared, "place": place}) for place in PLACES]
    for place in reversed(PLACES):
        for workers in WORKERS[gpus > 0]:
            arguments = {**shared, "place": place, "workers": workers}
            found.append(Case(f"training, transforms {place}, {workers} workers", training, arguments, 90.0))
    return found


def videos_per_step(gpus: int) -> int:
    """Videos of a step, each of which gives two clips. A worker makes a whole batch."""
    return 8 if gpus else 2


def feeding_cfg(gpus: int, folder: str, place: str, steps: int, *overrides: Any) -> CfgNode:
    """UniFormer-S's Kinetics-400 recipe on rendered videos, for so many steps; in the dry run of a tiny model."""
    videos = rendered(Path(folder) / "clips", videos_per_step(gpus) * steps, 300 if gpus else 64)
    fresh = ["NUM_GPUS", gpus, "TRAIN.AUTO_RESUME", False, "MODEL.INIT_FROM", "", "MODEL.INIT_HEAD", "keep"]
    fresh += ["DATA.PATH_TO_DATA_DIR", str(videos), "DATA.PATH_PREFIX", str(videos), "TENSORBOARD.ENABLE", False]
    fresh += [
        "TRAIN.MIXED_PRECISION",
        precision(gpus),
        "TRAIN.BATCH_SIZE",
        videos_per_step(gpus),
        "TRAIN.EVAL_PERIOD",
        0,
    ]
    fresh += ["SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_EPOCHS", 0, "AUG.DEVICE", place]
    tiny = [] if gpus else [*TINY["Uniformer"], *TINY_CLIPS]
    return load_config(RECIPE, [*fresh, *tiny, *overrides])


def rendered(folder: Path, videos: int, frames: int) -> Path:
    """A folder with a train list of so many videos of 340x256: copies of two, with a key frame every 12 and 250."""
    folder.mkdir(exist_ok=True)
    sources = [folder / f"key_frame_every_{gop}.mp4" for gop in (12, 250)]
    for source, gop in zip(sources, (12, 250), strict=True):
        if not source.exists():
            os.replace(render(folder / f"partial_{source.name}", gop, frames=frames), source)
    names = [f"{number}.mp4" for number in range(videos)]
    for name, source in zip(names, cycle(sources), strict=False):
        if not (folder / name).exists():
            os.link(source, folder / name)
    (folder / "train.csv").write_text("".join(f"{name} 0\n" for name in names), encoding="utf-8")
    return folder


def transform_rate(gpus: int, folder: str, place: str) -> Row:
    """Clips per second that the device makes of decoded frames; or per CPU second, of a worker that also decodes."""
    whole = ["DATA.TRAIN_CROP_SIZE", 224, "DATA.TEST_CROP_SIZE", 224]  # smaller clips would be made in the worker
    cfg = feeding_cfg(gpus, folder, place, 1, *whole)
    dataset, device = VideoDataset(cfg, "train"), topology.device(cfg)
    clips = collate([dataset[0, index] for index in range(len(dataset))])["clips"]
    if isinstance(clips, torch.Tensor):
        figures = data_speed.stages(cfg, len(dataset))
        rates = {
            "clips_per_core_second": figures["clips_per_core_second"],
            "cpu_ms_per_clip": figures["cpu_ms_per_clip"],
        }
        return {"place": place, **rates}
    clips = clips.pin_memory() if gpus else clips
    seconds, _ = median_seconds(lambda: clips.make(device), device)
    return {"place": place, "clips_per_second": len(clips) / seconds}


def training(gpus: int, folder: str, place: str, workers: int) -> Row:
    """Clips per second of a training, and the share of its time without a batch, after all workers have begun."""
    out = os.path.join(folder, f"training {place} {workers}")
    steps = ["DATA_LOADER.NUM_WORKERS", workers, "LOG_PERIOD", workers, "OUTPUT_DIR", out]
    train_run(feeding_cfg(gpus, folder, place, ROUNDS * workers, *steps))
    rows = read_json_lines(os.path.join(out, "metrics.jsonl"))
    windows = [row for row in rows if row["split"] == "train_iter"][1:-1]  # each of as many clips
    seconds = [1 / row["clips_per_second"] for row in windows]
    waited = sum(row["data_wait_percent"] * spent for row, spent in zip(windows, seconds, strict=True))
    figures = {"clips_per_second": len(windows) / sum(seconds), "data_wait_percent": waited / sum(seconds)}
    return {"place": place, "workers": workers, "cores": len(os.sched_getaffinity(0)), **figures}
