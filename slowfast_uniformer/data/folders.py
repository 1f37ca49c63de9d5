"""What folders hold: videos by the ending of their names, and the numbered images of frame folders.

Imports neither NumPy nor a decoder: `uniformer lists` and lists of inputs need neither.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from slowfast_uniformer.paths import numbered_name

# Of the whole program; `is_video` also looks into files whose ending has another common meaning.
VIDEO_ENDINGS = frozenset(
    ".3g2 .3gp .asf .avi .avifs .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2ts .m2v .m4v .mjpeg .mjpg .mkv "
    ".mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogg .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .wtv .y4m".split()
)
IMAGE_ENDINGS = frozenset(".bmp .jfif .jp2 .jpeg .jpg .pgm .png .ppm .tga .tif .tiff .webp".split())
_SERIES_NUMBER = 98765432109876  # longer than the padding of any name


def ending_of(name: str) -> str:
    """The ending of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def is_video(path: str) -> bool:
    """Whether a file is a video by its ending. TypeScript (.ts, .mts) and sound (.ogg) are none."""
    ending = ending_of(path)
    if ending not in (".ts", ".mts", ".ogg"):
        return ending in VIDEO_ENDINGS
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return True  # reading it says what is wrong
    if ending == ".ogg":
        return b"theora" in head or b"\x01video" in head or not head
    return b"\0" in head or not head  # text has no zeros, a transport stream has them in its first packet


def walk(folder: str, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Each folder at and below `folder` that is not hidden, with the sorted names of its files.

    Links to folders are followed. A folder is entered once, so that links in a circle come to an end.

    Args:
        folder: Where to begin.
        on_error: Called with the error of a folder that cannot be read.
    """
    entered = {str(above) for above in Path(os.path.realpath(folder)).parents}
    for parent, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        if (place := os.path.realpath(parent)) in entered:
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, sorted(names)


# ---------------------------------------------------------------------------------------------------- frame folders
class Images(NamedTuple):
    """The images of a frame folder.

    Attributes:
        names: File name by frame number, from 0; of a number that is missing in the middle there is none.
        frames: Number of frames, with those that are missing.
        template: How the images are named, as DATA.IMAGE_TEMPLATE would say it.
        first: The number in the name of frame 0.
        step: Difference between the numbers of consecutive images.
    """

    names: dict[int, str]
    frames: int
    template: str
    first: int
    step: int

    def name(self, frame: int) -> str:
        """The file name that a frame has or, if it is missing, should have."""
        return self.names.get(frame) or numbered_name(self.template, self.first + frame * self.step)


class _Series(NamedTuple):
    """Images whose names differ in one number: (number, its digits, name) of each."""

    prefix: str
    suffix: str
    images: list[tuple[int, str, str]]

    def template(self) -> str:
        padded = [digits for _, digits, _ in self.images if digits.startswith("0") and len(digits) > 1]
        number = f"{{:0{min(map(len, padded))}d}}" if padded else "{}"
        return number.join(text.replace("{", "{{").replace("}", "}}") for text in (self.prefix, self.suffix))


def find_images(folder: str, template: str) -> Images:
    """Find the images of a frame folder: those that `template` names or else the folder's only series of images.

    They can be counted from any number and in any steps. Numbers without a common step are time stamps: their images
    follow one another. Other files and hidden ones do not matter.

    Args:
        folder: The folder.
        template: DATA.IMAGE_TEMPLATE.

    Raises:
        OSError: The folder cannot be read.
        ValueError: It has no such images, or several series of them. The message says what there is.
    """
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    series = _named_series(names, template) or _only_series(names, template)
    images = sorted(series.images)
    for (number, _, name), (other, _, other_name) in pairwise(images):
        if number == other:
            raise ValueError(f"{name} and {other_name} have the same number; remove one")
    numbers = [number for number, _, _ in images]
    first, step = numbers[0], min((b - a for a, b in pairwise(numbers)), default=1)
    counted = all((number - first) % step == 0 for number in numbers)
    frames = [(number - first) // step for number in numbers] if counted else range(len(numbers))
    found = {frame: name for frame, (_, _, name) in zip(frames, images, strict=True)}
    return Images(found, frames[-1] + 1, series.template(), first, step)


def has_images(names: list[str]) -> bool:
    """Whether these files make a frame folder: there is a numbered image among them."""
    return any(ending_of(name) in IMAGE_ENDINGS and re.search(r"[0-9]", name) and name[0] != "." for name in names)


def _named_series(names: list[str], template: str) -> _Series | None:
    """The images that `template` names."""
    prefix, _, suffix = numbered_name(template, _SERIES_NUMBER).partition(str(_SERIES_NUMBER))
    form = re.compile(re.escape(prefix) + "([0-9]+)" + re.escape(suffix))
    matches = [match for match in map(form.fullmatch, names) if match]
    return _Series(prefix, suffix, [(int(m[1]), m[1], m[0]) for m in matches]) if matches else None


def _only_series(names: list[str], template: str) -> _Series:
    """The series of numbered images in a folder; ValueError if there is none, or there are several."""
    images = [name for name in names if ending_of(name) in IMAGE_ENDINGS]
    split = {name: re.split("([0-9]+)", os.path.splitext(name)[0]) for name in images}
    most = max(len(parts) // 2 for parts in split.values()) if split else 0
    found: list[_Series] = []
    for place in (-1, *range(most - 1)):  # the last number counts the frames, or else the first that makes a series
        found = _series_at(split, place)
        if any(len(series.images) > 1 for series in found):
            break
    found = [series for series in found if len(series.images) > 1] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError("not a file, but a folder without numbered images")
    templates = [series.template() for series in found[:4]]
    raise ValueError(
        f"the folder has several series of images ({', '.join(s.images[0][2] for s in found[:4])}) and none named as "
        f"DATA.IMAGE_TEMPLATE {template} says: set the key to {' or '.join(templates)}"
    )


def _series_at(split: dict[str, list[str]], place: int) -> list[_Series]:
    """Series of the images whose names, split at their numbers, differ in the number at `place` only."""
    found: dict[tuple[str, str], list] = defaultdict(list)
    for name, parts in split.items():
        numbers = len(parts) // 2
        if place < numbers and numbers:
            at = 2 * (place % numbers) + 1
            suffix = "".join(parts[at + 1 :]) + os.path.splitext(name)[1]
            found["".join(parts[:at]), suffix].append((int(parts[at]), parts[at], name))
    return [_Series(*key, images) for key, images in found.items()]
