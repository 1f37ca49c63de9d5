"""Text in pictures: fonts for letters that DejaVu Sans lacks, and texts that would be markup elsewhere."""

import logging
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw, features

from slowfast_uniformer.runs import figures, fonts
from slowfast_uniformer.runs.fonts import SQUARE, draw_text, drawable, fitted, text_length

SCRIPTS = {"chinese": "左手", "hindi": "बायां", "thai": "ซ้าย", "korean": "왼쪽", "emoji": "👍", "kana": "ひだり"}
KNOWN = ("left → right", "Übung", "налево", "αριστερά", "يسار", "שמאל", "a\u200db")


def make_font(path, letters, style="Regular", family="Test Sans", full=True) -> str:
    """A font whose letters are filled boxes, or empty with `full` False."""
    pen = TTGlyphPen(None)
    if full:
        pen.moveTo((50, 0))
        for corner in ((50, 700), (950, 700), (950, 0)):
            pen.lineTo(corner)
        pen.closePath()
    names = {ord(letter): f"u{ord(letter):X}" for letter in letters}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(order, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": style})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture(autouse=True)
def system(monkeypatch):
    """A process that has drawn nothing yet, on a system with the fonts in this list and no others."""
    found: list[str] = []
    for name, value in {"_fonts": [], "_font_of": {}, "_lacking": set(), "_warned": False}.items():
        monkeypatch.setattr(fonts, name, value)
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: found)
    return found


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("script", SCRIPTS)
def test_letters_that_matplotlib_lacks_come_from_a_font_of_the_system(system, tmp_path, script, caplog):
    text = SCRIPTS[script]
    system += [make_font(tmp_path / "others.ttf", "xyz"), make_font(tmp_path / "test.ttf", text)]
    assert drawable(f"{text} a") == f"{text} a" and not warned(caplog)
    assert {fonts._font_of[letter] for letter in text} == {str(tmp_path / "test.ttf")}
    assert fonts._font_of["a"] != str(tmp_path / "test.ttf")


def test_upright_sans_serif_fonts_come_first_and_broken_ones_are_passed_over(system, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    options = {
        "serif": {"family": "Test Serif"},
        "bold": {"style": "Bold"},
        "best": {},
        "color": {"family": "Test Color Sans"},
        "last": {"family": "Last Resort Sans"},
    }
    system += [make_font(tmp_path / f"{name}.ttf", "左手", **given) for name, given in options.items()]
    system += [str(tmp_path / "broken.ttf"), str(tmp_path / "absent.ttf")]
    drawable("左手")
    assert fonts._fonts[1:] == [str(tmp_path / "best.ttf")]


def test_system_fonts_are_not_searched_for_common_letters(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_system_fonts", lambda _: pytest.fail("searched"))
    for text in KNOWN:
        assert drawable(text) == text
    assert not warned(caplog)


def test_without_a_font_there_are_squares_and_one_warning_in_all(system, monkeypatch, caplog):
    searched = []
    monkeypatch.setattr(fonts, "_system_fonts", lambda letters: searched.append(letters) or [])
    for text in [*SCRIPTS.values(), *SCRIPTS.values()]:
        assert set(drawable(text)) == {SQUARE}
    assert drawable("手左下") == 3 * SQUARE
    (said,) = warned(caplog)
    assert "no font on this machine has 左 手" in said.replace("手 左", "左 手") and "fonts-noto-cjk" in said
    assert sum(map(len, searched)) <= len(set("".join([*SCRIPTS.values(), "下"]))), "each is searched once"


def test_the_warning_is_on_all_names_of_a_figure(caplog):
    figures.draw_per_class(np.ones(len(SCRIPTS)), list(SCRIPTS.values()))
    (said,) = warned(caplog)
    assert all(letter in said for letter in "बซひ…")


def test_what_is_no_letter(caplog):
    assert drawable("a\nb\tc\r\u2028d\u3000e") == "a b c  d e"
    assert drawable("\0\x1b[1m\ud800") == f"{SQUARE}{SQUARE}[1m{SQUARE}"
    assert not warned(caplog)


def test_a_font_that_is_installed_after_matplotlib_has_made_its_list_is_used_in_figures(system, tmp_path, caplog):
    """Its file of known fonts is not renewed; and what is drawn differs from what a font without outlines draws."""
    caplog.set_level(logging.INFO)
    pictures = []
    for full in (True, False):
        fonts._fonts.clear(), fonts._font_of.clear()
        path = make_font(tmp_path / f"{full}.ttf", "左手", family=f"Sans {full}", full=full)
        system[:] = [path]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pictures.append(figures.pixels(figures.draw_confusion(np.eye(2, dtype=int), ["左手", "手"])))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).sum() > 300
    assert not caplog.messages, "no findfont lines either"


def test_pillow_draws_each_part_in_its_font(system, tmp_path):
    system.append(make_font(tmp_path / "test.ttf", "左手"))
    page = Image.new("L", (200, 40), "white")
    draw_text(ImageDraw.Draw(page), (5, 30), "a左手b", 20, "black")
    columns = np.flatnonzero((np.asarray(page) == 0).sum(0) >= 13)  # of boxes 14 pixels high
    assert len(columns) >= 34
    assert text_length("a左手b", 20) == pytest.approx(text_length("a", 20) + 40 + text_length("b", 20))


@pytest.mark.skipif(not features.check("raqm"), reason="a Pillow without raqm draws letter by letter")
def test_parts_of_a_line_stay_in_their_order():
    """The sign, the number and the name after a Hebrew or Arabic name are at its right."""
    runs = fonts._runs(drawable("שמאל ימין → $5% يسار (0.50) א\u05b8ב"), 20)
    expected = [("שמאל ימין", "rtl"), (" → $5% ", "ltr"), ("يسار", "rtl"), (" (0.50) ", "ltr"), ("א\u05b8ב", "rtl")]
    assert [(run.text, run.direction) for run in runs] == expected


def test_a_text_is_shortened_and_its_end_is_kept():
    assert fitted("left", 15, 500, " (0.50)") == "left (0.50)"
    short = fitted("x" * 100_000, 15, 200, " (0.50)")
    assert short.startswith("xxx") and short.endswith("x… (0.50)") and 180 < text_length(short, 15) <= 200
    assert fitted("", 15, 0) == "" and fitted("abc", 15, 1) == "…"
