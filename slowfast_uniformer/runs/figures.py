"""Pictures of an evaluation for TensorBoard: matplotlib figures and arrays of pixels."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from slowfast_uniformer.runs.fonts import draw_text, drawable, find_fonts, fitted, set_literal
from slowfast_uniformer.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Names = Sequence[str] | None  # of classes in label order
Predictions = Sequence[tuple[str, str, float]]  # true class, predicted class, probability of that
TEXT, BLUE, ORANGE, GREEN, RED = "#24292f", "#3b6fb6", "#d9822b", "#1a7f37", "#c62828"
QUIET, RULE, PALE_BLUE = "#57606a", "#d0d7de", "#9dbbe3"
SHOWN_FRAMES = 8  # of a clip


def _labels(names: Names, count: int) -> list[str]:
    names = names or [str(i) for i in range(count)]
    find_fonts("".join(names))
    return [name if len(name) <= 28 else name[:27] + "…" for name in map(drawable, names)]


def pixels(figure: "Figure") -> np.ndarray:
    """A figure as (H, W, 3) uint8, drawn by Matplotlib's own renderer whatever window system is set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _axes(width: float, height: float, title: str, frame: bool) -> "Axes":
    from matplotlib.figure import Figure

    axes = Figure((width, height), dpi=100, layout="constrained", facecolor="white").add_subplot()
    axes.figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes.set_title(title, color=TEXT, fontsize=12, loc="left", pad=10)
    axes.tick_params(colors=TEXT, length=0)
    for spine in axes.spines.values():
        spine.set(visible=frame, color="#d0d7de")
    return axes


def draw_confusion(matrix: np.ndarray, names: Names) -> "Figure":
    """A confusion matrix, coloured by the share of the true class.

    Args:
        matrix: counts (K, K) by true class (row) and predicted class (column), or (K, K + 1) with a column of videos
            that failed.
        names: K class names in label order, or None for labels. With more than 60 classes none are shown.
    """
    from matplotlib.colors import PowerNorm

    rows, columns = matrix.shape
    share = 100.0 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = min(max(5.5, 4.5 + 0.25 * rows), 15.0)
    title = f"{counted(matrix.sum(), 'video')}, {100 * np.trace(matrix) / max(matrix.sum(), 1):.1f} % right"
    axes = _axes(size + 1.0, size, title, frame=True)
    norm = PowerNorm(0.5, vmin=0, vmax=100)  # on a linear scale a few per cent would not be seen
    image = axes.imshow(share, cmap="Blues", norm=norm, interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("% of the true class", color=TEXT)
    axes.set_xlabel("predicted", color=TEXT)
    axes.set_ylabel("true", color=TEXT)
    labels, font = [*_labels(names, rows), "failed"], 9 if rows <= 30 else 7.5
    axes.set_xticks(range(columns), labels[:columns], rotation=90 if names else 0, fontsize=font)
    axes.set_yticks(range(rows), labels[:rows], fontsize=font)
    if rows > 60:
        axes.set(xticks=[], yticks=[])
    for (i, j), count in np.ndenumerate(matrix if rows <= 15 else np.empty((0, 0))):
        if count:
            axes.text(j, i, count, ha="center", va="center", color="white" if share[i, j] > 30 else TEXT)
    set_literal(axes.figure)
    return axes.figure


def draw_per_class(accuracy: np.ndarray, names: Names) -> "Figure":
    """Bars of per-class accuracies (K,) in per cent from the best class down, nan left out; of more than 40 the 20 best
    and the 20 worst."""
    labels = _labels(names, len(accuracy))
    present = [i for i in np.argsort(-accuracy, kind="stable") if not np.isnan(accuracy[i])]
    best, worst = (present[:20], present[-20:]) if len(present) > 40 else (present, [])
    shown = best + worst
    places = np.arange(len(shown)) + (np.arange(len(shown)) >= len(best))  # a gap between best and worst
    mean = accuracy[present].mean() if present else math.nan
    which = f"; the 20 best and 20 worst of {len(present)} classes" if worst else ""
    title = f"Mean {mean:.1f} % right{which}"
    axes = _axes(8.0, 1.4 + 0.24 * (places.max(initial=0) + 1), title, frame=False)
    bars = axes.barh(places, accuracy[shown], color=[BLUE] * len(best) + [ORANGE] * len(worst), height=0.72)
    axes.bar_label(bars, fmt="%.0f", padding=4, fontsize=8, color=TEXT)
    axes.axvline(mean, color="#8c959f", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(places, [labels[i] for i in shown], fontsize=9)
    axes.set(xlim=(0, 106), ylim=(places.max(initial=0) + 0.6, -0.6))
    axes.set_xlabel("% of the class's videos", color=TEXT)
    set_literal(axes.figure)
    return axes.figure


def draw_clips(clips: Sequence, predictions: Predictions, height: int = 112) -> np.ndarray:
    """Clips as rows of at most 8 evenly spaced frames, each with its prediction above: green if right, red if wrong.

    Args:
        clips: uint8 arrays or tensors (T, H, W, 3).
        predictions: one for each clip.
        height: of the frames, pixels.

    Returns:
        (H, W, 3) uint8.
    """
    from PIL import Image, ImageDraw

    gap, caption = 6, 30
    strips = [_strip(clip, height) for clip in map(np.asarray, clips)]
    width = max([520, *(sum(frame.width + gap for frame in strip) for strip in strips)])
    page = Image.new("RGB", (width + gap, len(strips) * (height + caption + gap) + gap), "white")
    draw = ImageDraw.Draw(page)
    for row, (strip, (true, predicted, probability)) in enumerate(zip(strips, predictions, strict=True)):
        x, y = gap, gap + row * (height + caption + gap)
        end = f" → {fitted(predicted, 15, width // 2, f' ({probability:.2f})')}"
        title, color = fitted(true, 15, width - gap, end), GREEN if true == predicted else RED
        draw_text(draw, (x, y + caption - 8), title, 15, color)
        for frame in strip:
            page.paste(frame, (x, y + caption))
            x += frame.width + gap
    return np.asarray(page)


def _shown(count: int) -> np.ndarray:
    """Which frames of a clip of `count` frames are shown."""
    return np.linspace(0, count - 1, min(SHOWN_FRAMES, count)).round().astype(int)


def _strip(clip: np.ndarray, height: int) -> "list[Image]":
    """The shown frames of a clip (T, H, W, 3), scaled to a height in pixels."""
    from PIL import Image

    size = max(1, round(clip.shape[2] * height / clip.shape[1])), height
    return [Image.fromarray(clip[t]).resize(size) for t in _shown(len(clip))]


class SheetClip(NamedTuple):
    """A clip of a contact sheet.

    Attributes:
        frames: uint8 array or tensor (T, H, W, 3).
        classes: names of its classes, each with what follows the name.
        note: where it is from.
        numbers: which frames of the video it has (T,); None for no time bar.
        total: frames of the video.
    """

    frames: Sequence
    classes: Sequence[tuple[str, str]]
    note: str
    numbers: Sequence[int] | None = None
    total: int = 0


def draw_sheet(clips: Sequence[SheetClip], height: int = 112) -> np.ndarray:
    """A contact sheet: at most 8 evenly spaced frames of each clip, below its title and a time bar.

    The bar is the whole video; a mark is a frame of the clip, a dark one a frame that is shown. More than 4 clips are
    in two columns.

    Args:
        clips: one or more.
        height: of the frames, pixels.

    Returns:
        (H, W, 3) uint8.
    """
    from PIL import Image, ImageDraw

    gap, margin, head = 4, 16, 60 if any(clip.numbers is not None for clip in clips) else 42
    strips = [_strip(np.asarray(clip.frames), height) for clip in clips]
    width = max([460, *(sum(frame.width + gap for frame in strip) - gap for strip in strips)])
    columns = 1 if len(clips) <= 4 else 2
    rows = math.ceil(len(clips) / columns)
    size = margin + columns * (width + margin), margin + rows * (head + height + margin)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for number, (clip, strip) in enumerate(zip(clips, strips, strict=True)):
        column, row = divmod(number, rows)
        x, y = margin + column * (width + margin), margin + row * (head + height + margin)
        draw_text(draw, (x, y + 14), _title(clip.classes, width), 16, TEXT)
        draw_text(draw, (x, y + 32), fitted(clip.note, 12, width), 12, QUIET)
        if clip.numbers is not None:
            _draw_time_bar(draw, (x, y + 42, width), clip)
        for frame in strip:
            page.paste(frame, (x, y + head))
            x += frame.width + gap
    return np.asarray(page)


def _title(classes: Sequence[tuple[str, str]], width: int) -> str:
    """Names one after the other; where they do not fit into `width` pixels, each has the same share."""
    title = "".join(name + end for name, end in classes)
    if len(classes) > 1 and fitted(title, 16, width) != title:
        title = "".join(fitted(name, 16, width // len(classes), end) for name, end in classes)
    return fitted(title, 16, width)


def _draw_time_bar(draw: "ImageDraw", place: tuple[int, int, int], clip: SheetClip) -> None:
    """Draw a line for the video and a mark for each frame of the clip; `place` is left, top and width."""
    x, y, width = place
    draw.rectangle((x, y + 4, x + width - 1, y + 7), RULE)
    shown = set(_shown(len(clip.numbers)).tolist())
    for dark in (False, True):  # dark marks last, so that none is hidden
        for at, number in enumerate(clip.numbers):
            if (at in shown) == dark:
                left = x + round(int(number) * (width - 3) / max(clip.total - 1, 1))
                draw.rectangle((left, y, left + 2, y + 11), BLUE if dark else PALE_BLUE)
