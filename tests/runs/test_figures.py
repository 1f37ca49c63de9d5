"""Pictures for TensorBoard: their content, and when there is little or nothing to draw."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.text import Text

from slowfast_uniformer.runs import figures
from slowfast_uniformer.runs.figures import SheetClip, draw_clips, draw_confusion, draw_per_class, draw_sheet, pixels

BLUE_RGB, PALE_RGB = (59, 111, 182), (157, 187, 227)


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def title(axes) -> list[str]:
    return axes.figure.get_suptitle().splitlines()


def labels_of(ticks) -> list[str]:
    return [label.get_text() for label in ticks]


def test_confusion_matrix_shows_counts_where_there_is_room():
    matrix = np.array([[3, 1, 0], [0, 0, 0]])  # two classes, and a column of failed videos
    axes = draw_confusion(matrix, ["a", "a name that is much too long for an axis"]).axes[0]
    assert sorted(texts(axes)) == ["1", "3"]
    assert title(axes) == ["4 videos, 75.0 % right", "color: share of the true class"]
    assert labels_of(axes.get_xticklabels()) == ["a", "a name that is much…", "failed"]
    assert axes.images[0].get_array()[0].tolist() == [75.0, 25.0, 0.0]
    axes = draw_confusion(np.diag([1000] * 16), None).axes[0]
    assert texts(axes) == ["100"] * 16 and title(axes)[1] == "% of the true class"


def test_confusion_matrix_of_many_classes_shows_the_most_confused():
    matrix = 10 * np.eye(40, 41, dtype=int)
    matrix[30, 3], matrix[3, 30], matrix[7, 39], matrix[7, 8], matrix[7, 40] = 9, 5, 4, 1, 2
    assert figures.most_confused(matrix, 4).tolist() == [3, 7, 30, 39]
    assert figures.most_confused(matrix).tolist()[:5] == [0, 1, 2, 3, 4], "filled with the first classes"
    assert figures.most_confused(np.eye(16)).tolist() == list(range(16))
    axes = draw_confusion(matrix, None).axes[0]
    assert title(axes)[1].startswith("the 16 most confused of 40 classes")
    shown = labels_of(axes.get_yticklabels())
    assert labels_of(axes.get_xticklabels()) == [*shown, "other classes", "failed"]
    counts = axes.images[0].get_array()[shown.index("7")]
    assert counts[-2:].round(1).tolist() == [0.0, 11.8] and counts[shown.index("39")].round(1) == 23.5
    few = np.zeros((40, 40), int)
    few[0] = 1  # confused with each of the others
    assert draw_confusion(few, None).axes[0].images[0].get_array()[0, -1] == 100 * 24 / 40


def test_per_class_bars_are_sorted_and_few():
    axes = draw_per_class(np.array([50.0, np.nan, 100.0]), ["a", "b", "c"]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [100.0, 50.0]
    assert labels_of(axes.get_yticklabels()) == ["c", "a"]
    many = draw_per_class(np.linspace(0, 100, 101), None).axes[0]
    assert [round(bar.get_width()) for bar in many.patches] == [*range(100, 90, -1), *range(9, -1, -1)]
    assert title(many)[1].startswith("the 10 best and 10 worst of 101 classes")


TENSORBOARD_WIDTH = 350  # pixels that TensorBoard 2.21 gives each picture of its Images tab, whatever its size


@pytest.mark.parametrize("count", [2, 8, 50, 400])
def test_texts_of_pictures_are_legible_in_tensorboard(count):
    """At least 9 pixels high as TensorBoard shows them, inside the picture, and labels do not touch each other."""
    names = [f"exercising with ball {i}" for i in range(count)]
    matrix = np.random.default_rng(0).integers(0, 120, (count, count + 1))
    for figure in (draw_confusion(matrix, names), draw_per_class(np.linspace(0, 100, count), names)):
        height, width = pixels(figure).shape[:2]
        assert width == figures.WIDTH and height <= 1.3 * width
        scale = TENSORBOARD_WIDTH / width
        (axes,) = figure.axes
        shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(text.get_fontsize() for text in shown) * figure.dpi / 72 * scale >= 9
        ticks = [*axes.get_yticklabels(), *axes.get_xticklabels()]
        for text in [*ticks, *axes.texts[:20], figure._suptitle]:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
        for labels in (axes.get_yticklabels(), axes.get_xticklabels(), axes.texts[:20]):
            boxes = [label.get_window_extent() for label in labels]
            for i, a in enumerate(boxes):
                for b in boxes[i + 1 :]:
                    assert a.x1 <= b.x0 + 2 or b.x1 <= a.x0 + 2 or a.y1 <= b.y0 + 2 or b.y1 <= a.y0 + 2, (i, labels)


def test_pictures_of_nothing_can_be_drawn(tmp_path):
    draw_confusion(np.zeros((3, 3), int), None).savefig(tmp_path / "confusion.png")
    draw_per_class(np.full(3, np.nan), None).savefig(tmp_path / "per_class.png")
    assert {path.stat().st_size > 0 for path in tmp_path.iterdir()} == {True}


LITERAL = [
    "$100% off$ sale",
    "$\\frac{$",
    "a_b^{c}",
    "100 % \\alpha",
    "_hidden",
    "<b>&amp;",
    "{}",
    "two\nlines",
    "x" * 3000,
    "#~",
    "",
]


def test_names_are_drawn_literally():
    """Even where the user's settings send texts to TeX."""
    with matplotlib.rc_context({"text.usetex": True, "font.family": "no such family"}):
        confusion = draw_confusion(np.eye(len(LITERAL), dtype=int), LITERAL)
        bars = draw_per_class(np.arange(1.0 + len(LITERAL))[1:], LITERAL)
        for figure in (confusion, bars):
            assert pixels(figure).shape[2] == 3
            texts = figure.findobj(Text)
            assert not any(text.get_parse_math() or text.get_usetex() for text in texts)
    shown = [*LITERAL[:7], "two lines", "x" * 19 + "…", *LITERAL[9:]]
    assert labels_of(confusion.axes[0].get_yticklabels()) == shown
    shown[8] = "x" * 23 + "…"
    assert labels_of(bars.axes[0].get_yticklabels()) == shown[::-1]


def test_captions_fit_into_the_page():
    clip = np.zeros((1, 8, 8, 3), np.uint8)
    pages = [draw_clips([clip], [(name, name, 0.5)]) for name in LITERAL]
    assert {page.shape for page in pages} == {pages[0].shape}
    assert all((page[:, -6:] == 255).all() for page in pages)


def test_clips_are_rows_of_four_frames_with_legible_captions():
    long = np.stack([np.full((8, 8, 3), 10 * t, np.uint8) for t in range(20)])
    short = torch.full((2, 8, 16, 3), 77, dtype=torch.uint8)
    page = draw_clips([long, short], [("a", "a", 0.9), ("a", "b", 0.4)])
    values = page[..., 0]
    side = (figures.WIDTH - 5 * 6) // 4
    assert page.dtype == np.uint8 and page.shape[1] == figures.WIDTH
    assert [v for v in range(0, 200, 10) if (values == v).sum() >= side**2] == [0, 60, 130, 190]
    assert abs((values == 77).sum() - side**2) <= 3 * side, "two frames of half the height"
    green, red = (page == (26, 127, 55)).all(-1), (page == (198, 40, 40)).all(-1)
    assert green.any() and red.any() and green.nonzero()[0].max() < red.nonzero()[0].min()
    rows = np.flatnonzero(green.any(axis=1))
    assert (rows.max() - rows.min() + 1) * TENSORBOARD_WIDTH / figures.WIDTH >= 9, "letters and brackets"


def sheet_clip(frames: int, classes=(("a", ""),), numbers=None, total=0) -> SheetClip:
    clip = np.stack([np.full((8, 8, 3), 10 * t, np.uint8) for t in range(frames)])
    return SheetClip(clip, list(classes), "a note", numbers, total)


def test_a_sheet_marks_the_frames_of_the_clip_on_a_bar():
    page = draw_sheet([sheet_clip(16, numbers=range(50, 66), total=101)])
    bar = page[16 + 42 : 16 + 54, 16:-16]
    marks = {color: np.flatnonzero((bar[0] == rgb).all(-1)) for color, rgb in (("dark", BLUE_RGB), ("pale", PALE_RGB))}
    width = bar.shape[1] - 3
    dark = [50, 52, 54, 56, 59, 61, 63, 65]  # every second one, evenly spaced
    assert marks["dark"].tolist() == [round(n * width / 100) + i for n in dark for i in range(3)]
    assert len(marks["pale"]) == 3 * 8 and marks["pale"].min() > marks["dark"].min()
    assert (page[16 + 60 :, 16][:112] == 0).all()  # the first frame is below the bar


@pytest.mark.parametrize("count, columns", [(1, 1), (4, 1), (5, 2), (16, 2)])
def test_a_sheet_of_many_clips_has_two_columns(count, columns):
    page = draw_sheet([sheet_clip(1)] * count, height=20)
    assert page.shape[1] == 16 + columns * (460 + 16)
    assert page.shape[0] == 16 + -(-count // columns) * (42 + 20 + 16)


def test_long_names_of_classes_share_the_width():
    names = ["x" * 200, "y" * 200, "short"]
    title = figures._title([(names[0], " 0.50 + "), (names[1], " 0.30 + "), (names[2], " 0.20")], 460)
    assert "x… 0.50 + " in title and "y… 0.30 + " in title and title.endswith("short 0.20")
    assert figures._title([("a", ", "), ("b", "")], 460) == "a, b"
    assert all((draw_sheet([sheet_clip(1, [(name, "")])])[:, -16:] == 255).all() for name in LITERAL)
