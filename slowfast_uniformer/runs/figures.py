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
# TensorBoard scales pictures to a width of 350 pixels. They are drawn for that, at twice the size: a text of 20 pixels
# is one of 10 there.
WIDTH = 700
_DPI = 144
_TEXT_SIZE, _SMALL_SIZE = 10, 9  # points, of 2 pixels each
MOST_CLASSES = 16  # that a confusion matrix shows
MOST_BARS = 20
_FRAMES_IN_ROW = 4
_CELLS_WIDTH = 440  # pixels of a row of a confusion matrix, about


def _labels(names: Names, count: int, most: int) -> list[str]:
    """Names of `count` classes, of at most `most` letters."""
    names = names or [str(i) for i in range(count)]
    find_fonts("".join(names))
    return [name if len(name) <= most else name[: most - 1] + "…" for name in map(drawable, names)]


def pixels(figure: "Figure") -> np.ndarray:
    """A figure as (H, W, 3) uint8, drawn by Matplotlib's own renderer whatever window system is set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _axes(height: float, title: str, note: str, frame: bool) -> "Axes":
    """Axes in a figure of WIDTH and `height` pixels."""
    from matplotlib.figure import Figure

    size = WIDTH / _DPI, round(height) / _DPI
    axes = Figure(size, dpi=_DPI, layout="constrained", facecolor="white").add_subplot()
    figure = axes.figure
    figure.suptitle(f"{title}\n{note}", color=TEXT, fontsize=_TEXT_SIZE, x=0.02, ha="left")
    axes.tick_params(colors=TEXT, length=0, labelsize=_TEXT_SIZE)
    for spine in axes.spines.values():
        spine.set(visible=frame, color=RULE)
    return axes


def most_confused(matrix: np.ndarray, count: int = MOST_CLASSES) -> np.ndarray:
    """The labels, ascending, of at most `count` classes: those of the most frequent confusions.

    Args:
        matrix: counts (K, K) or more columns, by true class (row) and predicted class (column).
    """
    classes = len(matrix)
    if classes <= count:
        return np.arange(classes)
    wrong = matrix[:, :classes].copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape)
    chosen = dict.fromkeys(np.stack(pairs, 1)[: classes * count].ravel().tolist())
    return np.sort(list(chosen)[:count])


def _shown_part(matrix: np.ndarray, names: Names) -> tuple[np.ndarray, list[str]]:
    """The counts that a confusion matrix shows, and the labels of its columns; those of the rows come first."""
    classes, shown = len(matrix), most_confused(matrix)
    rows, named = matrix[shown], _labels(names, classes, 20)
    parts, labels = [rows[:, shown]], [named[i] for i in shown]
    if len(shown) < classes:
        parts.append(rows[:, :classes].sum(1, keepdims=True) - parts[0].sum(1, keepdims=True))
        labels.append("other classes")
    if matrix.shape[1] > classes:
        parts.append(rows[:, classes:])
        labels.append("failed")
    return np.concatenate(parts, axis=1), labels


def draw_confusion(matrix: np.ndarray, names: Names) -> "Figure":
    """A confusion matrix, coloured by the share of the true class; of more than 16 classes the most confused ones.

    Its numbers are counts, or shares in per cent where counts are too long.

    Args:
        matrix: counts (K, K) by true class (row) and predicted class (column), or (K, K + 1) with a column of videos
            that failed.
        names: K class names in label order, or None for labels.
    """
    from matplotlib.colors import PowerNorm

    counts, labels = _shown_part(matrix, names)
    rows, columns = counts.shape
    share = 100.0 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    fits = 12 * len(str(counts.max(initial=0))) * columns <= _CELLS_WIDTH
    numbers = counts if fits else share.round().astype(int)
    title = f"{counted(matrix.sum(), 'video')}, {100 * np.trace(matrix) / max(matrix.sum(), 1):.1f} % right"
    part = f"the {rows} most confused of {len(matrix)} classes; " if rows < len(matrix) else ""
    note = part + ("color: share of the true class" if fits else "% of the true class")
    height = 130 + (34 if rows <= 8 else 28) * rows + 13 * max(map(len, labels))
    axes = _axes(max(height, 300), title, note, frame=True)
    norm = PowerNorm(0.5, vmin=0, vmax=100)  # on a linear scale a few per cent would not be seen
    axes.imshow(share, cmap="Blues", norm=norm, interpolation="nearest", aspect="auto")
    axes.set_xlabel("predicted", color=TEXT, fontsize=_TEXT_SIZE)
    axes.set_ylabel("true", color=TEXT, fontsize=_TEXT_SIZE)
    axes.set_xticks(range(columns), labels, rotation=90)
    axes.set_yticks(range(rows), labels[:rows])
    for i, j in np.argwhere(counts):
        color = "white" if share[i, j] > 30 else TEXT
        axes.text(j, i, numbers[i, j], ha="center", va="center", color=color, fontsize=_SMALL_SIZE)
    set_literal(axes.figure)
    return axes.figure


def draw_per_class(accuracy: np.ndarray, names: Names) -> "Figure":
    """Bars of per-class accuracies (K,) in per cent from the best class down, nan left out; of more than 20 the 10 best
    and the 10 worst."""
    labels, half = _labels(names, len(accuracy), 24), MOST_BARS // 2
    present = [i for i in np.argsort(-accuracy, kind="stable") if not np.isnan(accuracy[i])]
    best, worst = (present[:half], present[-half:]) if len(present) > MOST_BARS else (present, [])
    shown = best + worst
    places = np.arange(len(shown)) + (np.arange(len(shown)) >= len(best))  # a gap between best and worst
    mean = accuracy[present].mean() if present else math.nan
    which = f"the {half} best and {half} worst of {len(present)} classes, " if worst else ""
    note = f"{which}% of each class's videos"
    axes = _axes(120 + 32 * (places.max(initial=0) + 1), f"Mean {mean:.1f} % right", note, frame=False)
    bars = axes.barh(places, accuracy[shown], color=[BLUE] * len(best) + [ORANGE] * len(worst), height=0.72)
    above_line = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.bar_label(bars, fmt="%.0f", padding=4, fontsize=_SMALL_SIZE, color=TEXT, bbox=above_line)
    axes.axvline(mean, color="#8c959f", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(places, [labels[i] for i in shown])
    axes.set(xlim=(0, 110), ylim=(places.max(initial=0) + 0.6, -0.6), xticks=range(0, 101, 20))
    set_literal(axes.figure)
    return axes.figure


def draw_clips(clips: Sequence, predictions: Predictions) -> np.ndarray:
    """Clips as rows of 4 evenly spaced frames, each with its prediction above: green if right, red if wrong.

    Args:
        clips: uint8 arrays or tensors (T, H, W, 3).
        predictions: one for each clip.

    Returns:
        (H, W, 3) uint8, W being WIDTH.
    """
    from PIL import Image, ImageDraw

    gap, caption, size = 6, 34, 22
    side = (WIDTH - gap) // _FRAMES_IN_ROW - gap
    strips = [
        _strip(clip, round(side * clip.shape[1] / clip.shape[2]), _FRAMES_IN_ROW) for clip in map(np.asarray, clips)
    ]
    page = Image.new("RGB", (WIDTH, sum(strip[0].height + caption + gap for strip in strips) + gap), "white")
    draw, y = ImageDraw.Draw(page), gap
    for strip, (true, predicted, probability) in zip(strips, predictions, strict=True):
        end = f" → {fitted(predicted, size, WIDTH // 2, f' ({probability:.2f})')}"
        title, color = fitted(true, size, WIDTH - 2 * gap, end), GREEN if true == predicted else RED
        draw_text(draw, (gap, y + caption - 10), title, size, color)
        for column, frame in enumerate(strip):
            page.paste(frame, (gap + column * (side + gap), y + caption))
        y += strip[0].height + caption + gap
    return np.asarray(page)


def _shown(count: int, most: int = SHOWN_FRAMES) -> np.ndarray:
    """Which frames of a clip of `count` frames are shown."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def _strip(clip: np.ndarray, height: int, most: int = SHOWN_FRAMES) -> "list[Image]":
    """The shown frames of a clip (T, H, W, 3), scaled to a height in pixels."""
    from PIL import Image

    size = max(1, round(clip.shape[2] * height / clip.shape[1])), height
    return [Image.fromarray(clip[t]).resize(size) for t in _shown(len(clip), most)]


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
