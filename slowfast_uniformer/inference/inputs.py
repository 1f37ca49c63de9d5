"""Which videos a command means by the words it was given: files, folders and lists."""

import os
import re
from collections.abc import Iterable, Sequence

from fvcore.common.config import CfgNode

from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.errors import UserError

VIDEO_ENDINGS = frozenset(
    ".3gp .asf .avi .divx .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogg .ogv .ts .vob "
    ".webm .wmv .y4m".split()
)
LIST_ENDINGS = (".txt", ".csv", ".tsv", ".lst")
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


def find_videos(given: Sequence[str], cfg: CfgNode) -> list[Sample]:
    """The videos that words mean, without labels: a video, a folder of frames (DATA.IMAGE_TEMPLATE), a folder
    that holds videos at any depth, or a list (.txt, .csv), a path a line, with or without labels.

    Paths in a list are looked for under DATA.PATH_PREFIX, here, and beside the list. A video need not exist:
    the reader says so. Raises UserError for a folder without videos and a list that is none.
    """
    samples = [sample for word in given for sample in _find(word, cfg)]
    return list({sample.path: sample for sample in samples}.values())


def _find(word: str, cfg: CfgNode) -> list[Sample]:
    if os.path.isdir(word):
        if frames := frames_in(word, cfg.DATA.IMAGE_TEMPLATE):
            return [Sample(word, UNLABELLED, frames)]
        found = sorted(_below(word))
        if not found:
            raise UserError(f"{word}: a folder without videos ({', '.join(sorted(VIDEO_ENDINGS))})")
        return [Sample(path, UNLABELLED) for path in found]
    if word.lower().endswith(LIST_ENDINGS):
        return _in_list(word, cfg)
    return [Sample(word, UNLABELLED)]


def _below(folder: str) -> Iterable[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if os.path.splitext(name)[1].lower() in VIDEO_ENDINGS and not name.startswith("."):
                yield os.path.join(parent, name)


def frames_in(folder: str, template: str) -> int:
    """How many frames a folder holds by the names of `template`; 0 if it is no folder of frames."""
    count = 0
    while os.path.isfile(os.path.join(folder, template.format(count + 1))):
        count += 1
    return count


def _in_list(path: str, cfg: CfgNode) -> list[Sample]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot read this list of videos ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a list of videos, for it is not a text in UTF-8") from None
    if not lines:
        raise UserError(f"{path}: an empty list of videos")
    folders = [cfg.DATA.PATH_PREFIX, "", os.path.dirname(path)]
    samples = []
    for line in lines:
        places = [os.path.join(folder, name) for name in _names(line) for folder in folders]
        place = next(filter(os.path.exists, places), places[-1])
        frames = frames_in(place, cfg.DATA.IMAGE_TEMPLATE) if os.path.isdir(place) else 0
        samples.append(Sample(place, UNLABELLED, frames or None))
    return samples


def _names(line: str) -> list[str]:
    """What of a line may be the path: all of it, or what stands before numbers at its end."""
    before = re.sub(r"([\s,;]+-?[\d.]+)+$", "", line)
    return list(dict.fromkeys([line, before]))


def after_cfg(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Take apart what stands after --cfg: YAML files, KEY VALUE pairs, and the rest."""
    files = []
    words = list(words)
    while words and words[0].endswith((".yaml", ".yml")):
        files.append(words.pop(0))
    pairs = []
    while len(words) > 1 and _KEY.fullmatch(words[0]):
        pairs += [words.pop(0), words.pop(0)]
    return files, pairs, words
