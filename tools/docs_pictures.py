"""Draw the pictures of README.md and of docs/: of the demo's run, and of a run on made-up recordings.

make demo
python tools/docs_pictures.py [--demo runs/demo] [--work tmp/docs_pictures] [--out docs/images]

Of the demo's run it draws the top of its HTML report, with a headless Chromium if there is one, and where the model
looks. Then it runs the commands of docs/custom_dataset.md on recordings that it renders, which takes about two minutes
on an idle machine: a preview of clips and a timeline. It keeps them and the run in the work folder. The pictures are
made small enough to be in git.
"""

import argparse
import contextlib
import csv
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from slowfast_uniformer.cli import main as uniformer
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.explain import GAP, SIDE, TOP
from slowfast_uniformer.inference.video_writer import write_video

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/custom/video_folder.yaml"
FPS = 12.5
WIDTH, HEIGHT = 128, 96
LARGEST = 60_000  # bytes of a picture
LARGEST_PAGE = 140_000  # bytes of the picture of a page
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXPLAINED = "data/demo/videos/right/right_0003.mp4"
STAGES = (2, 3)  # of UniFormer: Grad-CAM of the last convolutions, attention rollout
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


def run_demo(demo: Path, work: Path) -> None:
    """Write the report and the maps of a demo's run, in the checkout, whose paths they show."""
    if not (ROOT / demo / "predictions.csv").exists():
        raise UserError(f"--demo {demo}: no tested run; run make demo first")
    with contextlib.chdir(ROOT):
        run("report", demo, "--output", work / "report.html")
        run("explain", "--checkpoint", demo, EXPLAINED, "--output", work / "maps")


def screenshot(page: Path, picture: Path, width: int, height: int) -> bool:
    """Write the top of a page as PNG, in its light colours; False where there is no Chromium."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no Chromium ({', '.join(BROWSERS)}): no new picture of {page.name}")
        return False
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--blink-settings=preferredColorScheme=1"]
    options += [f"--window-size={width},{height}", f"--screenshot={picture}"]
    subprocess.run([browser, *options, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
    return True


def strip(sheet: Image.Image, stages: Sequence[int]) -> Image.Image:
    """The head and the frames of a contact sheet (inference/explain.py), and of its maps those of some stages."""
    step, picture = SIDE + GAP, Image.new("RGB", (sheet.width, TOP + (1 + len(stages)) * (SIDE + GAP)), "white")
    picture.paste(sheet.crop((0, 0, sheet.width, TOP)))
    for place, row in enumerate((0, *stages)):
        picture.paste(sheet.crop((0, TOP + row * step, sheet.width, TOP + (row + 1) * step)), (0, TOP + place * step))
    return picture


def write_small(image: Image.Image, path: Path, width: int, largest: int = LARGEST) -> None:
    """Write a picture at most `width` pixels wide, with as many colours as fit into `largest` bytes."""
    image = image.convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    for colors in (256, 128, 64, 32):
        data = BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if data.tell() < largest:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.getvalue())
            return
    raise UserError(f"{path}: more than {largest} bytes even in 32 colours; make the picture smaller")


def draw_demo(work: Path, out: Path) -> None:
    """Write the pictures of the demo's run."""
    sheet = Image.open(work / "maps" / Path(EXPLAINED).with_suffix(".png").name)
    write_small(strip(sheet, STAGES), out / "maps.png", 1000, LARGEST_PAGE)
    if screenshot(work / "report.html", work / "report.png", 1280, 856):
        write_small(Image.open(work / "report.png"), out / "report.png", 700, LARGEST_PAGE)


def draw(work: Path, out: Path) -> None:
    """Write the pictures of a run in `work`."""
    write_small(Image.open(work / "run/preview_clips.png"), out / "preview.png", 760)
    write_small(Image.open(work / "run/timeline.png"), out / "timeline.png", 1000)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of the demo's run")
    parser.add_argument("--work", type=Path, default=ROOT / "tmp/docs_pictures", help="of recordings and run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="of the pictures")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    run_demo(args.demo, args.work.resolve())
    draw_demo(args.work, args.out)
    make_recordings(args.work, 16)
    run_page(args.work, SHORT_RUN)
    draw(args.work, args.out)


if __name__ == "__main__":
    sys.exit(main())
