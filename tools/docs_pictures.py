"""Draw the pictures of docs/custom_dataset.md: made-up recordings, lists, a preview, a training run and a timeline.

python tools/docs_pictures.py [--work tmp/docs_pictures] [--out docs/images]

It runs the commands of that page on recordings that it renders, which takes about two minutes on an idle machine, and
keeps them and the run in the work folder. The pictures are made small enough to be in git.
"""

import argparse
import contextlib
import csv
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from slowfast_uniformer.cli import main as uniformer
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.video_writer import write_video

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/custom/video_folder.yaml"
FPS = 12.5
WIDTH, HEIGHT = 128, 96
LARGEST = 60_000  # bytes of a picture
SHORT_RUN = ["DATA.SAMPLER", "balanced", "MIXUP.ENABLE", "False", "TRAIN.BATCH_SIZE", "8", "SOLVER.WARMUP_EPOCHS", "2"]
SHORT_RUN += ["SOLVER.MAX_EPOCH", "18", "TRAIN.EVAL_PERIOD", "6", "LOG_PERIOD", "20"]

Event = tuple[float, float, str]  # start and end in seconds, class


def bounce(draw: ImageDraw.ImageDraw, t: float, x: float) -> None:
    y = 70 - 42 * abs(math.sin(3.5 * t))
    draw.ellipse((x - 11, y - 11, x + 11, y + 11), (226, 124, 44))


def slide(draw: ImageDraw.ImageDraw, t: float, x: float) -> None:
    x += 24 * math.sin(2.5 * t)
    draw.rectangle((x - 15, 62, x + 15, 82), (70, 168, 92))


def turn(draw: ImageDraw.ImageDraw, t: float, x: float) -> None:
    for blade in range(3):
        angle = 2.2 * t + blade * 2 * math.pi / 3
        draw.line((x, 46, x + 34 * math.cos(angle), 46 + 34 * math.sin(angle)), (74, 120, 214), width=9)


ACTIONS: dict[str, Callable[[ImageDraw.ImageDraw, float, float], None]] = {
    "bounce": bounce,
    "slide": slide,
    "turn": turn,
}


def frames(events: Sequence[Event], seconds: float, seed: int) -> Iterator[np.ndarray]:
    """Yield the frames of a recording: an empty stage, on which something happens during each event."""
    rng = np.random.default_rng(seed)
    light, places = rng.uniform(0.75, 1.1), rng.uniform(36, WIDTH - 36, len(events))
    wall, floor = (tuple(int(light * c) for c in color) for color in ((196, 204, 212), (150, 140, 128)))
    for number in range(round(seconds * FPS)):
        image = Image.new("RGB", (WIDTH, HEIGHT), wall)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 82, WIDTH, HEIGHT), floor)
        for (start, end, name), x in zip(events, places, strict=True):
            if start <= number / FPS < end:
                ACTIONS[name](draw, number / FPS, x)
        yield np.asarray(image)


def invent(rng: np.random.Generator) -> tuple[list[Event], float]:
    """The events of a recording, one of each class in random order, and its length in seconds."""
    events, time = [], rng.uniform(2, 4)
    for name in rng.permutation(list(ACTIONS)):
        end = time + rng.uniform(4, 7)
        events.append((round(time, 2), round(end, 2), str(name)))
        time = end + rng.uniform(2, 5)
    return events, time


def write_events(path: Path, events: Sequence[tuple]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("video", "start", "end", "label"), *events])


def make_recordings(work: Path, count: int) -> None:
    """Render `count` annotated recordings to train on, and a later one, with their tables of events."""
    rng, rows = np.random.default_rng(1), []
    (work / "recordings").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        events, seconds = invent(rng)
        write_video(str(work / "recordings" / f"day{number:02d}.mp4"), frames(events, seconds, number), FPS)
        rows += [(f"day{number:02d}.mp4", *event) for event in events]
    write_events(work / "train_events.csv", rows)
    events, seconds = invent(rng)
    write_video(str(work / "new_recording.mp4"), frames(events, seconds, count), FPS)
    write_events(work / "events.csv", [("new_recording.mp4", *event) for event in events])


def run(*words: object) -> None:
    """Run a command of ours, as the page does."""
    print("$ uniformer", *words, flush=True)
    if status := uniformer.run([str(word) for word in words]):
        raise UserError(f"uniformer {words[0]} ended with status {status}: its lines above say why")


def run_page(work: Path, overrides: Sequence[object]) -> None:
    """The page's commands, from annotations to a timeline, in the folder `work`: the pictures show paths of videos."""
    places = {"DATA.PATH_TO_DATA_DIR": "lists", "DATA.PATH_PREFIX": "recordings"}
    places |= {"MODEL.NUM_CLASSES": len(ACTIONS) + 1, "OUTPUT_DIR": "run"}
    config = ["--cfg", CONFIG, *(word for pair in places.items() for word in pair), *overrides]
    annotations = ["--annotations", "train_events.csv", "--background", 1.0, "--val", 0.3]
    timeline = ["--window", 2, "--stride", 0.5, "--smooth", 2, "--min-length", 1]
    scored = ["--annotations", "events.csv", "--picture", "run/timeline.png"]
    with contextlib.chdir(work):
        run("lists", "recordings", *annotations, "--out", "lists", "--force")
        run("check", "--preview", 4, "--workers", 0, "--fast", *config)
        run("train", *config)
        run("predict", "--checkpoint", "run", "new_recording.mp4", *timeline, *scored)


def write_small(image: Image.Image, path: Path, width: int) -> None:
    """Write a picture at most `width` pixels wide, with as many colours as fit into `LARGEST` bytes."""
    image = image.convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    for colors in (256, 128, 64, 32):
        data = BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if data.tell() < LARGEST:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.getvalue())
            return
    raise UserError(f"{path}: more than {LARGEST} bytes even in 32 colours; make the picture smaller")


def draw(work: Path, out: Path) -> None:
    """Write the pictures of a run in `work`."""
    write_small(Image.open(work / "run/preview_clips.png"), out / "preview.png", 760)
    write_small(Image.open(work / "run/timeline.png"), out / "timeline.png", 1000)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "tmp/docs_pictures", help="of recordings and run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="of the pictures")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    make_recordings(args.work, 16)
    run_page(args.work, SHORT_RUN)
    draw(args.work, args.out)


if __name__ == "__main__":
    sys.exit(main())
