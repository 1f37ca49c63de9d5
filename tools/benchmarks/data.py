"""What a DataLoader worker spends on a training clip with AUG.DEVICE cpu and device, and the bytes that it hands over.

    python tools/benchmarks/data.py --compare device --json
    python tools/benchmarks/data.py --compare device --cfg configs/sthv2/uniformer_s_f16_k400.yaml

Without --cfg the recipe is UniFormer-S's of Kinetics-400. Videos of 340 x 256 pixels are rendered for it, and for a
config whose DATA.PATH_TO_DATA_DIR is not there.

All that a worker does counts: opening and decoding, which both values share, drawing, making or packing the clips, and
collating them. It is CPU time of one thread; the two values are interleaved, and the minimum of the repeats counts.
Bytes are those of the buffers and of the pickled plans.
"""

import argparse
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from results import to_json
from timing import interleaved

from slowfast_uniformer.cli.common import finish, parse_arguments, positive
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import collate
from slowfast_uniformer.data.raw_clips import RawClips
from slowfast_uniformer.distributed.topology import clips_per_video

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 3
FILES = 4  # that are rendered
HEIGHT, WIDTH = 256, 340


def render(path: Path, frames: int, seed: int) -> None:
    """Write a video of moving shapes over a textured, noisy background, with libx264's usual settings.

    It has one cut, as Kinetics clips of 10 s have on average (7 cuts in 8 clips).
    """
    draws = np.random.default_rng(seed)
    cut = int(frames * draws.uniform(0.3, 0.7))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for length in (cut, frames - cut):
            for picture in shot(length, draws):
                frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), "rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def shot(length: int, draws: np.random.Generator) -> Iterator[np.ndarray]:
    """Pictures (height, width, 3) of a shot without a cut, values about 0 to 255."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    colours = draws.uniform(40, 215, (6, 3))
    starts, speeds = draws.uniform(40, 220, (6, 2)), draws.uniform(-3, 3, (6, 2))
    ground, texture = draws.uniform(60, 140, 3), draws.normal(0, 12, (HEIGHT, 2 * WIDTH, 3))
    for n in range(length):
        picture = np.stack([ground[0] + x / 4, ground[1] + y / 3, ground[2] + 40 * np.sin(x / 31 + n / 20)], -1)
        picture += texture[:, n % WIDTH : n % WIDTH + WIDTH]  # the camera pans
        for colour, start, speed in zip(colours, starts, speeds, strict=True):
            row, column = (start + speed * n) % (HEIGHT, WIDTH)
            picture[(x - column) ** 2 + (y - row) ** 2 < 900] = colour
        yield picture + draws.normal(0, 2, picture.shape)


def rendered(cfg: list[str], overrides: list[str], folder: Path, videos: int) -> list[Any]:
    """Overrides that read rendered videos in place of the recipe's: 10 s, or 3 s for sparse sampling."""
    sparse = load_config(cfg, overrides).TRAIN.DATASET not in ("kinetics", "k400")
    for number in range(FILES):
        render(folder / f"{number}.mp4", 90 if sparse else 300, number)
    lines = [f"{number % FILES}.mp4 0\n" for number in range(videos)]  # each line has draws of its own
    (folder / "train.csv").write_text("".join(lines), encoding="utf-8")
    places = ["DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(folder)]
    return [*places, "TRAIN.DATASET", "kinetics_sparse" if sparse else "kinetics"]


def compare_device(cfg: list[str], overrides: list[Any], videos: int) -> dict[str, float]:
    """CPU milliseconds of a worker per training clip, and bytes per clip, of both values of AUG.DEVICE."""
    configs = {device: load_config(cfg, [*overrides, "AUG.DEVICE", device]) for device in ("cpu", "device")}
    datasets = {device: VideoDataset(config, "train") for device, config in configs.items()}
    videos = min(videos, len(datasets["cpu"]))
    spent, sent, clips = Counter(), Counter(), 0
    for index in range(videos):
        work = {device: partial(load, dataset, index) for device, dataset in datasets.items()}
        spent += Counter(interleaved(work, REPEATS))
        for device, dataset in datasets.items():
            sent[device] += handed_over(load(dataset, index)["clips"])
        clips += clips_per_video(configs["cpu"])
    figures = {"clips": clips}
    for device in datasets:
        figures[f"{device}_ms_per_clip"] = 1e3 * spent[device] / clips
        figures[f"{device}_bytes_per_clip"] = sent[device] / clips
    figures["worker_ratio"] = spent["cpu"] / spent["device"]
    figures["bytes_ratio"] = sent["device"] / sent["cpu"]
    return figures


def load(dataset: VideoDataset, index: int) -> dict[str, Any]:
    """What a worker does for a batch of one video."""
    return collate([dataset[0, index]])


def handed_over(clips: torch.Tensor | RawClips) -> int:
    """Bytes between processes: of buffers, and of plans as they are pickled."""
    if isinstance(clips, RawClips):
        return clips.buffer.nbytes + len(pickle.dumps(clips.clips))
    return clips.nbytes


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files and `opts` the KEY VALUE pairs that follow them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="+", metavar="CONFIG", help="config files (UniFormer-S of Kinetics-400)")
    parser.add_argument("--compare", choices=["device"], default="device", help="what to compare with AUG.DEVICE cpu")
    parser.add_argument("--videos", type=positive(int), default=16, help="videos to read (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    return parse_arguments(parser)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    overrides = [*args.opts, "NUM_GPUS", "0", "DATA_LOADER.NUM_WORKERS", "0", "MODEL.INIT_FROM", ""]
    overrides += ["MODEL.INIT_HEAD", "keep"]
    cfg = args.cfg or [str(ROOT / "configs/k400/uniformer_s.yaml")]
    with tempfile.TemporaryDirectory() as folder:
        if not args.cfg or not os.path.isdir(load_config(cfg, overrides).DATA.PATH_TO_DATA_DIR):
            overrides += rendered(cfg, overrides, Path(folder), args.videos)
        figures = compare_device(cfg, overrides, args.videos)
    if args.json:
        print(to_json([figures], threads=1))
        return
    for name, value in figures.items():
        print(f"{name:<24}{value:>14,.2f}")


if __name__ == "__main__":
    finish(main)
