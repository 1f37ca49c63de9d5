"""Render the demo data set: short H.264 videos of a textured shape that moves in one of eight ways.

    python datasets/make_demo.py [--out data/demo] [--train 1200] [--val 240] [--seed 0] [--workers N]

A clip has four phases in [0, 1): place across, place down, size and turn. The class moves one of them at constant
speed. Place and turn are circular: a shape that leaves at one edge enters at the opposite one. The size only grows
or only shrinks within a clip. A phase that the class does not move stands still where a moving one would be at a random
moment. So averaged over a clip its pictures come from one distribution whatever the class, and only motion tells the
class: the best guess from a single frame is right for fewer than 40 % of the clips.

A mirrored `left` is a `right`, a mirrored `clockwise` a `counter_clockwise`: set DATA.RANDOM_FLIP False.

Layout: videos/<class>/<class>_0001.mp4; train.csv, val.csv, test.csv (`path label`, below videos/; val and
test are the same held-out videos); classes.txt (names in label order); for the held-out and some hundred
other videos frames/<video>/00001.jpg ... and sth/train.csv, val.csv, test.csv (`folder frames label`).
complete.json comes last; a data set that has it is not rendered again.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from slowfast_uniformer.errors import UserError

FPS = 25
STH_TRAIN = 320  # training videos that are also written as JPEG frames
VERSION = 2  # raise it when the pictures change, so that older data sets are rendered again
# The phase that a motion moves and in which sense. Phases: 0 across, 1 down, 2 size, 3 turn (clockwise).
MOTIONS = {
    **{"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)},
    **{"approaching": (2, 1), "receding": (2, -1), "clockwise": (3, 1), "counter_clockwise": (3, -1)},
}
SIZE = 2  # the phase that is not circular
CLASSES = sorted(MOTIONS)  # label order
# Slowest and fastest, in cycles a frame. Over three frames, the stride of configs/demo, a turn stays below half of the
# star's 72 degrees of symmetry (0.1 cycles), or clockwise would look like counter-clockwise.
SPEEDS = ((0.024, 0.045), (0.024, 0.045), (0.020, 0.030), (0.020, 0.031))
RADII = (0.18, 0.46)  # of the picture's side; below 0.5, or a shape would meet itself across the edge


def polygon(u: np.ndarray, v: np.ndarray, corners: int) -> np.ndarray:
    sides = np.pi * (2 * np.arange(corners) + 1) / corners
    return np.cos(np.pi / corners) - np.max([u * np.cos(a) + v * np.sin(a) for a in sides], axis=0)


# Distance inside the outline, in radii, at (u, v); no shape leaves the unit circle.
SHAPES: dict[str, Callable] = {
    "disk": lambda u, v: 1 - np.hypot(u, v),
    "ring": lambda u, v: 0.3 - np.abs(np.hypot(u, v) - 0.7),
    "square": partial(polygon, corners=4),
    "star": lambda u, v: 0.68 + 0.32 * np.cos(5 * np.arctan2(v, u)) - np.hypot(u, v),
    "triangle": partial(polygon, corners=3),
}


def patchwork(u: np.ndarray, v: np.ndarray, patch: np.ndarray) -> np.ndarray:
    row, column = (np.clip((w + 1) / 2 * len(patch), 0, len(patch) - 1).astype(int) for w in (v, u))
    return patch[row, column]


# Share of the second colour at (u, v), to be clipped to 0..1. `k`: density; `patch`: matrix of 0 and 1.
TEXTURES: dict[str, Callable] = {
    "halves": lambda u, v, k, patch: 0.5 + 4 * u,
    "noise": lambda u, v, k, patch: patchwork(u, v, patch),
    "stripes": lambda u, v, k, patch: 0.5 + 3 * np.sin(k * u),
}


@dataclass(frozen=True)
class Look:
    """What does not move. `colours` are (2, 3), `background` is (size, size, 3); values from 0 to 255."""

    shape: str
    texture: str
    density: float
    patch: np.ndarray
    colours: np.ndarray
    background: np.ndarray


def draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise, a gradient or stripes between two dull colours, (size, size, 3)."""
    kind, angle, waves = rng.integers(3), rng.uniform(0, 2 * np.pi), rng.uniform(6, 20)
    first, second = rng.uniform(30, 100, (2, 1)) + rng.uniform(-20, 20, (2, 3))
    coarse = Image.fromarray(rng.random((5, 5), dtype=np.float32))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    line = np.linspace(-0.7, 0.7, size)
    along = line * np.cos(angle) + line[:, None] * np.sin(angle)
    share = (smooth, along / 2 + 0.5, np.sin(waves * along) / 2 + 0.5)[kind]
    return (first + (second - first) * np.clip(share, 0, 1)[..., None]).astype(np.float32)


def draw_look(size: int, rng: np.random.Generator) -> Look:
    hue = 0.5 + 0.5 * np.cos(rng.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3)
    return Look(
        shape=str(rng.choice(sorted(SHAPES))),
        texture=str(rng.choice(sorted(TEXTURES))),
        density=rng.uniform(2.5, 4),
        patch=rng.permutation(16).reshape(4, 4) % 2,
        colours=np.array([155 + 100 * hue, 60 + 60 * hue[::-1]], dtype=np.float32),  # bright, and darker
        background=draw_background(size, rng),
    )


def draw_phases(motion: str, frames: int, rng: np.random.Generator) -> np.ndarray:
    """The four phases at each frame, (4, frames). Every motion takes the same numbers from `rng`."""
    start, pace, pause = rng.random(4), rng.random(), rng.integers(frames)
    row, sense = MOTIONS[motion]
    times = np.arange(frames)
    phases = np.repeat(start[:, None], frames, axis=1)
    growth = speed(SIZE, pace) * times  # for 32 frames at most 0.93 of the range
    sizes = start[SIZE] * (1 - growth[-1]) + growth
    phases[SIZE] = sizes[::sense] if row == SIZE else sizes[pause]
    if row != SIZE:
        phases[row] = (start[row] + sense * speed(row, pace) * times) % 1
    return phases


def speed(row: int, pace: float) -> float:
    """Cycles a frame of the phase `row`; `pace` from 0, the slowest, to 1."""
    low, high = SPEEDS[row]
    return low + pace * (high - low)


def draw_frames(phases: np.ndarray, look: Look, size: int) -> np.ndarray:
    """Pictures uint8 (frames, size, size, 3) of the shape at `phases` (4, frames)."""
    across, down, zoom, turn = phases.astype(np.float32)[:, :, None, None]
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    dx, dy = (grid - across + 0.5) % 1 - 0.5, (grid[:, None] - down + 0.5) % 1 - 0.5
    radius = RADII[0] * (RADII[1] / RADII[0]) ** zoom
    cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    u, v = (cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius
    cover = np.clip(SHAPES[look.shape](u, v) * radius * size + 0.5, 0, 1)[..., None]
    share = np.clip(TEXTURES[look.texture](u, v, look.density, look.patch), 0, 1)[..., None]
    first, second = look.colours
    pictures = look.background + (first + (second - first) * share - look.background) * cover
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def render_clip(motion: str, rng: np.random.Generator, size: int = 64, frames: int = 32) -> np.ndarray:
    """One clip, uint8 (frames, size, size, 3) RGB. With equal `rng` all motions have the same look."""
    look = draw_look(size, rng)
    return draw_frames(draw_phases(motion, frames, rng), look, size)


def write_video(path: Path, clip: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        # x264's macroblock tree has given other bytes from run to run on processors with AVX-512.
        options = {"crf": "18", "preset": "veryfast", "g": "12", "mbtree": "0", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Job:
    """One video to render. `key` seeds it: neither the workers nor the size of the other split change it."""

    name: str
    motion: str
    key: tuple[int, ...]
    as_jpeg: bool


def plan(train: int, val: int, seed: int) -> list[Job]:
    """The training videos, then the held-out ones. Classes alternate; numbers run on from split to split."""
    jobs = []
    for index in range(train + val):
        motion, held_out = CLASSES[index % len(CLASSES)], index >= train
        key = (seed, 1, index - train) if held_out else (seed, 0, index)
        name = f"{motion}_{index // len(CLASSES) + 1:04d}"
        jobs.append(Job(name, motion, key, held_out or index < STH_TRAIN))
    return jobs


def render_job(job: Job, folder: Path, size: int, frames: int) -> None:
    clip = render_clip(job.motion, np.random.default_rng(job.key), size, frames)
    write_video(folder / "videos" / job.motion / f"{job.name}.mp4", clip)
    if job.as_jpeg:
        pictures = folder / "frames" / job.name
        pictures.mkdir(parents=True)
        for number, picture in enumerate(clip, 1):
            Image.fromarray(picture).save(pictures / f"{number:05d}.jpg", quality=92)


def write_lists(folder: Path, train: list[Job], val: list[Job], frames: int) -> None:
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (folder / "sth").mkdir()
    for split, jobs in (("train", train), ("val", val), ("test", val)):
        videos, pictures = "", ""
        for job in jobs:
            label = CLASSES.index(job.motion)
            videos += f"{job.motion}/{job.name}.mp4 {label}\n"
            pictures += f"{job.name} {frames} {label}\n" if job.as_jpeg else ""
        (folder / f"{split}.csv").write_text(videos)
        (folder / "sth" / f"{split}.csv").write_text(pictures)


def check_replaceable(out: Path) -> None:
    """UserError where `out` holds anything but a demo data set, finished or not."""
    ours = {"videos", "frames", "sth", "classes.txt", "train.csv", "val.csv", "test.csv", "complete.json"}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if foreign := sorted({path.name for path in out.glob("*")} - ours):
        raise UserError(f"{out} holds {foreign[0]}, which no demo data set has; choose another --out")


def make_demo(
    out: str | Path,
    train: int = 1200,
    val: int = 240,
    seed: int = 0,
    size: int = 64,
    frames: int = 32,
    workers: int = 1,
) -> bool:
    """Render the demo data set: short videos of a shape that moves in one of eight ways.

    It grows in `<out>.partial`, renamed when complete. Classes have equally many videos, as far as their number allows.

    Args:
        out: folder to write: lists, class names, videos.
        train: training videos.
        val: held-out videos, which the lists of validation and test both name.
        seed: of all that is random.
        size: width and height, pixels.
        frames: of a video, 25 a second.
        workers: processes. With several a script needs the guard `if __name__ == "__main__":`; a notebook does not.

    Returns:
        Whether it was rendered: False if `out` holds the same data set already.

    Raises:
        UserError: sizes that make no video, or an `out` with other files in it.
    """
    if min(train, val, frames, workers) < 1 or seed < 0 or size < 16 or size % 2:
        raise UserError("train, val, frames, workers: 1 or more; seed: 0 or more; size: even, 16 or more")
    out = Path(out).resolve()
    stamp = json.dumps(dict(version=VERSION, seed=seed, train=train, val=val, size=size, frames=frames))
    if (out / "complete.json").is_file() and (out / "complete.json").read_text() == stamp:
        return False
    check_replaceable(out)
    folder = out.with_name(f"{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    for name in CLASSES:
        (folder / "videos" / name).mkdir(parents=True)
    jobs = plan(train, val, seed)
    work = partial(render_job, folder=folder, size=size, frames=frames)
    if workers == 1:
        list(map(work, jobs))
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(work, jobs, chunksize=8))
    write_lists(folder, jobs[:train], jobs[train:], frames)
    (folder / "complete.json").write_text(stamp)
    shutil.rmtree(out, ignore_errors=True)
    folder.rename(out)
    return True


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Render the demo data set: eight motions.")
    parser.add_argument("--out", default="data/demo", help="folder to write (default: %(default)s)")
    parser.add_argument("--train", type=int, default=1200, help="training videos (default: %(default)s)")
    parser.add_argument("--val", type=int, default=240, help="held-out videos (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="default: a core each")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        rendered = make_demo(args.out, args.train, args.val, args.seed, workers=args.workers)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{args.out}: {'rendered' if rendered else 'already complete'}")


if __name__ == "__main__":
    main()
