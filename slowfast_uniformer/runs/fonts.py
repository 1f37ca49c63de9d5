"""Text in pictures as it is, in any script: for Matplotlib's figures and for Pillow's images.

DejaVu Sans, which Matplotlib brings along, has Latin, Greek, Cyrillic, Hebrew and Arabic letters. For others the fonts
of the system are searched when a text first needs them. What no font has is a square, with one warning in all.
"""

import logging
import unicodedata
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font
    from PIL import ImageDraw, ImageFont

logger = logging.getLogger(__name__)
SQUARE = "\N{WHITE SQUARE}"
REGULAR = ("Regular", "Book", "Normal", "Roman", "Medium")  # names of styles, as fonts give them
_fonts: list[str] = []  # paths of the fonts in use, DejaVu Sans first
_font_of: dict[str, str] = {}  # the path of the font that draws a character, "" if there is none
_lacking: set[int] = set()  # blocks of 256 characters of which the system has not all: they are not searched again
_warned = False


def drawable(text: str) -> str:
    """A text on one line, with squares for characters that no font has."""
    text = "".join(" " if c.isspace() else c for c in text)
    find_fonts(text + SQUARE)
    return "".join(c if _font_of[c] else "" if _follows(c) else SQUARE for c in text)


def _follows(character: str) -> bool:
    """Whether a character has no place of its own: accents, joiners, marks of direction."""
    return unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")


def find_fonts(text: str) -> None:
    """Find fonts for the characters of a text. `drawable` does so, but of many names together it takes less time."""
    new = set(text) - _font_of.keys()
    if not new:
        return
    from matplotlib.font_manager import findfont

    if not _fonts:
        _fonts.append(findfont("DejaVu Sans"))
    visible = {c for c in new if unicodedata.category(c) not in ("Cc", "Cs")}
    for path in _fonts.copy():
        _use(path, visible)
    searched = {c for c in visible - _font_of.keys() if ord(c) >> 8 not in _lacking}
    for path in _system_fonts(searched) if searched else ():
        _use(path, searched)
    without = new - _font_of.keys()
    _font_of.update(dict.fromkeys(without, ""))
    _lacking.update(ord(c) >> 8 for c in without)
    if squares := sorted(c for c in without & visible if not _follows(c)):
        _warn_once(squares)


def _warn_once(characters: list[str]) -> None:
    global _warned
    if not _warned:
        _warned = True
        shown = " ".join(characters[:8]) + (" …" if len(characters) > 8 else "")
        logger.warning(
            "no font on this machine has %s: pictures show squares instead. Install one and start again (Debian and "
            "Ubuntu: fonts-noto-core, fonts-noto-cjk)",
            shown,
        )


def _use(path: str, characters: set[str]) -> None:
    """Let a font draw those of `characters` that have none yet."""
    if new := _characters_of(path, characters - _font_of.keys()):
        _font_of.update(dict.fromkeys(new, path))
        if path not in _fonts:
            _fonts.append(path)


def _characters_of(path: str, characters: set[str]) -> set[str]:
    """Those of `characters` that a font has; none for a file that cannot be used."""
    try:
        font = _open(path)
        return {c for c in characters if font.get_char_index(ord(c))}
    except Exception:  # damaged files, and bitmaps without outlines
        return set()


@lru_cache(maxsize=16)
def _open(path: str) -> "FT2Font":
    from matplotlib.ft2font import FT2Font

    return FT2Font(path)


def _system_fonts(characters: set[str]) -> list[str]:
    """Fonts of the system that have some of `characters`, upright sans-serif ones first.

    Matplotlib's own list is not asked: it is kept in a file, and lacks fonts that were installed later.
    """
    from matplotlib.font_manager import findSystemFonts

    found = []
    for path in findSystemFonts():
        if count := len(_characters_of(path, characters)):
            font = _open(path)
            colored = not font.scalable or "Color" in font.family_name
            last_resort = font.family_name.startswith("Last")  # has a box for each character there is
            if not colored and not last_resort:
                found.append((font.style_name in REGULAR, "Sans" in font.family_name, count, path))
    return [path for *_, path in sorted(found, reverse=True)]


def set_literal(figure: "Figure") -> None:
    """Draw all texts of a Matplotlib figure, which are complete, as they are: without formulas, in `_fonts`."""
    from matplotlib.font_manager import fontManager
    from matplotlib.text import Text

    known = {entry.fname for entry in fontManager.ttflist}
    for path in _fonts[1:]:
        if path not in known:
            fontManager.addfont(path)
    families = ["DejaVu Sans", *(_open(path).family_name for path in _fonts[1:])]
    for text in figure.findobj(Text):
        text.set(parse_math=False, usetex=False, fontfamily=families)


# -------------------------------------------------------------------------------------------------- Pillow
@lru_cache
def _pillow_font(path: str, size: int) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.truetype(path, size)


class _Run(NamedTuple):
    """A part of a line in one font and direction."""

    text: str
    font: "ImageFont.FreeTypeFont"
    direction: str | None

    @property
    def length(self) -> float:
        return self.font.getlength(self.text, direction=self.direction)


def _runs(text: str, size: int) -> list[_Run]:
    """The parts of a drawable text, to be drawn from left to right whatever they are.

    Arabic or Hebrew words are one with the spaces between them, and not with a sign or number beside them: those do not
    belong to a name. An accent or space stays in the font before it, if that has one.
    """
    from PIL import features

    kinds, font, leftward = [], "", False
    for i, c in enumerate(text):
        stays = font and (c == " " or _follows(c)) and _characters_of(font, {c})
        font = font if stays else _font_of[c]
        if not _follows(c):
            leftward = _is_leftward(c) or (c == " " and leftward and _is_leftward(text[i + 1 : i + 2]))
        kinds.append((font, leftward))
    runs, known = [], features.check("raqm")  # without it, letters are drawn one by one
    for (font, leftward), part in groupby(zip(kinds, text, strict=True), key=itemgetter(0)):
        direction = ("rtl" if leftward else "ltr") if known else None
        runs.append(_Run("".join(c for _, c in part), _pillow_font(font, size), direction))
    return runs


def _is_leftward(character: str) -> bool:
    return bool(character) and unicodedata.bidirectional(character) in ("R", "AL")


def text_length(text: str, size: int) -> float:
    """Pixels that a text takes in `draw_text`."""
    return sum(run.length for run in _runs(drawable(text), size))


def draw_text(draw: "ImageDraw.ImageDraw", place: tuple[float, float], text: str, size: int, color: str) -> None:
    """Draw a line of text; `place` is the left end of its baseline."""
    x, y = place
    for run in _runs(drawable(text), size):
        draw.text((x, y), run.text, color, run.font, anchor="ls", direction=run.direction)
        x += run.length


@lru_cache
def fitted(text: str, size: int, width: int, end: str = "") -> str:
    """`text` and `end`, where `text` is shortened until both take at most `width` pixels."""
    if text_length(text + end, size) <= width:
        return text + end
    text = text[: max(width, 0)]
    while text and text_length(f"{text}…{end}", size) > width:
        text = text[:-1]
    return f"{text}…{end}"
