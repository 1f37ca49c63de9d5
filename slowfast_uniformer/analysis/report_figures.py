"""Charts and images of a report as numbers, SVG paths and data URIs; report.html draws them."""

import base64
import io
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from slowfast_uniformer.data.input_lists import path_sample
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.video import FOLDER_FPS
from slowfast_uniformer.runs.folder import PREVIEWS, RunFolder

SIZE = 1000  # side of the square in which a chart is drawn; the page stretches it
FRAMES, HEIGHT, MAX_WIDTH = 6, 96, 140  # frames of a strip, and their size in pixels
RIGHT, WRONG = (72, 133, 210), (214, 118, 40)  # colours of an image, on light and dark pages
TIMEOUT = 10.0  # seconds to read a video
Points = list[tuple[float, float]]


def chart(title: str, unit: str, series: Sequence[tuple[int, str, Points]], most: int = 250) -> dict[str, Any] | None:
    """A chart of series, as values of report.html, or None if there is no point.

    Args:
        title: heading.
        unit: of the values.
        series: (run from 0, kind: train, val or test, points).
        most: points of a series; neighbours are averaged where there are more.

    Returns:
        `title`, `unit`, `right`, the epoch at the right edge (0 is at the left one), ticks `x` and `y` as (per cent
        from the left or bottom, label), and `lines`: each with `run`, `kind`, `points`, the SVG path of the line
        (`path`), and that of strokes without length, which round caps make dots (`dots`).
    """
    series = [(run, kind, thin(points, most)) for run, kind, points in series if points]
    if not series:
        return None
    xs, ys = zip(*(point for *_, points in series for point in points), strict=True)
    x_ticks, y_ticks = ticks(0.0, max(xs), whole=True), ticks(min(ys), max(ys))
    right, low, high = max(max(xs), x_ticks[1]), y_ticks[0], y_ticks[-1]
    lines = []
    for run, kind, points in series:
        places = [f"{SIZE * x / right:.1f} {SIZE * (high - y) / (high - low):.1f}" for x, y in points]
        dotted = len(places) == 1 or (kind != "train" and len(places) <= 60)
        dots = "".join(f"M{place}h0" for place in places) if dotted else ""
        path = "M" + "L".join(places)
        lines.append({"run": run, "kind": kind, "points": points, "path": path, "dots": dots})
    x = [(100 * value / right, f"{value:g}") for value in x_ticks if value <= right]
    y = [(100 * (value - low) / (high - low), f"{value:g}") for value in y_ticks]
    return {"title": title, "unit": unit, "x": x, "y": y, "right": right, "lines": lines}


def thin(points: Points, most: int) -> Points:
    """At most `most` points, means of equally many neighbours; the last group may be smaller."""
    size = math.ceil(len(points) / most)
    groups = (points[i : i + size] for i in range(0, len(points), size))
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round values from at or below `low` to at or above `high`."""
    from matplotlib.ticker import MaxNLocator

    if high - low < 1e-12 * max(abs(high), abs(low), 1e-300):
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    return [float(f"{value:.10g}") for value in values]


def picture(matrix: np.ndarray) -> str:
    """A confusion matrix (K, K or K + 1) as a PNG with a pixel per cell.

    The larger the share of its row, the less transparent is a cell; correct ones differ in colour from errors.
    """
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    pixels = np.empty((*matrix.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = WRONG, np.round(255 * np.cbrt(share))
    diagonal = np.arange(len(pixels))
    pixels[diagonal, diagonal, :3] = RIGHT
    return _data_uri(Image.fromarray(pixels), "PNG")


def video_strip(run: RunFolder, video: str, start: float | None = None, end: float | None = None) -> list[str]:
    """Frames spread over a video, or its segment in seconds, as JPEGs; none if it cannot be read."""
    template = str(run.config.get("DATA.IMAGE_TEMPLATE", "{:05d}.jpg"))
    try:
        matrix = run.config.get("DATA.COLOR_MATRIX", "bt601")  # no key of earlier runs
        sample = path_sample(run.find(video), template)
        with open_sample(sample, template, timeout=TIMEOUT, color_matrix=matrix) as source:
            shown = range(source.frames)
            if start is not None:
                shown = source.segment(start, end, run.config.get("DATA.FOLDER_FPS", FOLDER_FPS))
            numbers = np.linspace(shown[0], shown[-1], FRAMES + 2).round().astype(int)[1:-1]
            frames = source.read(numbers, short_side=HEIGHT)
    except Exception:  # decoders raise many; the page then says that the frames are missing
        return []
    height, width = frames.shape[1:3]
    size = (max(HEIGHT // 2, min(MAX_WIDTH, round(width * HEIGHT / height))), HEIGHT)
    images = (ImageOps.fit(Image.fromarray(frame), size) for frame in frames)
    return [_data_uri(image, "JPEG", quality=72, optimize=True) for image in images]


def previews(run: RunFolder) -> list[str]:
    """The pictures of `uniformer check --preview` as JPEGs; none that is missing or damaged."""
    found = []
    for name in PREVIEWS:
        with suppress(OSError), Image.open(os.path.join(run.path, name)) as image:
            found.append(_data_uri(image.convert("RGB"), "JPEG", quality=80, optimize=True))
    return found


def _data_uri(image: Image.Image, image_format: str, **options: int) -> str:
    data = io.BytesIO()
    image.save(data, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
