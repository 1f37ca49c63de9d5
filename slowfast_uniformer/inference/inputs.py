"""Videos that a command is given as arguments: files, tar members, folders and lists."""

import os
from collections.abc import Iterator, Sequence

from fvcore.common.config import CfgNode

from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.input_lists import path_sample, read_input_list
from slowfast_uniformer.errors import UserError

VIDEO_ENDINGS = frozenset(
    ".3gp .asf .avi .divx .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogg .ogv .ts .vob "
    ".webm .wmv .y4m".split()
)
LIST_ENDINGS = (".txt", ".csv", ".tsv", ".lst")


def find_videos(given: Sequence[str], cfg: CfgNode) -> list[Sample]:
    """Unlabelled samples of the videos that arguments name, each path once.

    Args:
        given: Video files, tar members, frame folders (DATA.IMAGE_TEMPLATE), folders with videos at any depth, and
            lists (.txt, .csv, .tsv, .lst; see data/input_lists.py). A video need not exist: opening it fails.
        cfg: The model's config.

    Raises:
        UserError: A folder holds no video, or a list cannot be read or is empty.
    """
    samples = [sample for path in given for sample in _samples(path, cfg)]
    return list({sample.path: sample for sample in samples}.values())


def _samples(path: str, cfg: CfgNode) -> list[Sample]:
    if path.lower().endswith(LIST_ENDINGS) and not os.path.isdir(path):
        return read_input_list(path, cfg)
    sample = path_sample(path, cfg.DATA.IMAGE_TEMPLATE)
    if sample.frames or not os.path.isdir(path):
        return [sample]
    if not (found := sorted(_videos_below(path))):
        raise UserError(f"{path}: a folder without videos ({', '.join(sorted(VIDEO_ENDINGS))})")
    return [path_sample(video, cfg.DATA.IMAGE_TEMPLATE) for video in found]


def _videos_below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if os.path.splitext(name)[1].lower() in VIDEO_ENDINGS and not name.startswith("."):
                yield os.path.join(parent, name)
