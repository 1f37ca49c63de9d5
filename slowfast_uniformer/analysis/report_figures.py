"""The figures of a report as plain numbers, paths and data URIs; report.html draws them."""

import base64
import io
import math
import os
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from slowfast_uniformer.data import shards
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.video import FrameFolder
from slowfast_uniformer.runs.folder import RunFolder

SIZE = 1000  # a chart is drawn in a square of this side, which the page stretches
FRAMES, HEIGHT, ROOM = 6, 96, 140  # of a strip: frames, their height, and the widest a frame may be
RIGHT, WRONG = (72, 133, 210), (214, 118, 40)  # of a picture, on light and dark pages
TIMEOUT = 10.0  # seconds to read a video
Points = list[tuple[float, float]]


class Line(NamedTuple):
    """A line of a chart: its run (from 0), `kind` (train, val or test), points, and what to draw: a path, and
    strokes of no length that round caps make dots."""

    run: int
    kind: str
    points: Points
    path: str
    dots: str


class Chart(NamedTuple):
    """A chart from epoch 0 to `right`: ticks are (place from left or bottom in per cent, label)."""

    title: str
    unit: str
    x: list[tuple[float, str]]
    y: list[tuple[float, str]]
    right: float
    lines: list[Line]


def chart(title: str, unit: str, series: Sequence[tuple[int, str, Points]], most: int = 250) -> Chart | None:
    """A chart of (run, kind, points by epoch), None if there is no point. Of a series of more than `most`
    points, neighbours are averaged."""
    series = [(run, kind, thin(points, most)) for run, kind, points in series if points]
    if not series:
        return None
    xs, ys = zip(*(point for *_, points in series for point in points), strict=True)
    x_ticks, y_ticks = ticks(0.0, max(xs), whole=True), ticks(min(ys), max(ys))
    right, low, high = max(max(xs), x_ticks[1]), y_ticks[0], y_ticks[-1]
    lines = []
    for run, kind, points in series:
        at = [f"{SIZE * x / right:.1f} {SIZE * (high - y) / (high - low):.1f}" for x, y in points]
        dotted = len(at) == 1 or (kind != "train" and len(at) <= 60)
        dots = "".join(f"M{place}h0" for place in at) if dotted else ""
        lines.append(Line(run, kind, points, "M" + "L".join(at), dots))
    x = [(100 * value / right, f"{value:g}") for value in x_ticks if value <= right]
    y = [(100 * (value - low) / (high - low), f"{value:g}") for value in y_ticks]
    return Chart(title, unit, x, y, right, lines)


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
    """A matrix of counts (K, K or K + 1) as a PNG of a pixel each, less transparent where more of the row
    lies: what is right in one colour, what is wrong in another."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    pixels = np.empty((*matrix.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = WRONG, np.round(255 * np.cbrt(share))
    np.einsum("iic->ic", pixels[:, : len(pixels)])[:, :3] = RIGHT
    return _uri(Image.fromarray(pixels), "PNG")


def strip(run: RunFolder, video: str) -> list[str]:
    """JPEGs of frames spread over a video; none if it cannot be read."""
    try:
        with open_video(run.find(video), str(run.config.get("DATA.IMAGE_TEMPLATE", "{:05d}.jpg"))) as source:
            numbers = np.linspace(0, source.frames - 1, FRAMES + 2).round().astype(int)[1:-1]
            frames = source.read(numbers, short_side=HEIGHT)
    except Exception:  # decoders have many ways to say that; a report lacks a picture then, and says so
        return []
    height, width = frames.shape[1:3]
    size = (max(HEIGHT // 2, min(ROOM, round(width * HEIGHT / height))), HEIGHT)
    pictures = (ImageOps.fit(Image.fromarray(frame), size) for frame in frames)
    return [_uri(picture, "JPEG", quality=72, optimize=True) for picture in pictures]


def open_video(path: str, template: str) -> Video | FrameFolder:
    """A video file, one in a tar, or a folder of frames, to be closed."""
    if os.path.isdir(path):
        return FrameFolder(path, template, len(os.listdir(path)))
    return Video(path, shards.opener(path), TIMEOUT)


def _uri(image: Image.Image, form: str, **options: int) -> str:
    data = io.BytesIO()
    image.save(data, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
