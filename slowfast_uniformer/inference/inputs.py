"""Videos that a command is given as arguments: files, tar members, folders and lists."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fvcore.common.config import CfgNode

from slowfast_uniformer.data import folders, shards
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.input_lists import path_sample, read_input_list
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import numbered_name

logger = logging.getLogger(__name__)
LIST_ENDINGS = (".txt", ".csv", ".tsv", ".lst")


def find_videos(given: Sequence[str], cfg: CfgNode, segments: bool = False) -> list[Sample]:
    """Unlabelled samples of the videos that arguments name, each once.

    Args:
        given: Video files, tar members, frame folders, folders with videos at any depth or, where there are none, with
            frame folders, and lists (.txt, .csv, .tsv, .lst; see data/input_lists.py). Each is looked for in the
            current folder, then below DATA.PATH_PREFIX. A video need not exist: opening it fails.
        cfg: The model's config.
        segments: Whether the segments that lists name are samples of their own; else they stand for their videos.

    Raises:
        UserError: A folder holds no video, or a list cannot be read or is empty.
    """
    places = [_place(path, cfg.DATA.PATH_PREFIX) for path in given]
    samples = [sample for path in places for sample in _samples(path, cfg)]
    if not segments:
        samples = [replace(sample, part=None, line=None) for sample in samples]
    return list({(sample.path, sample.part): sample for sample in samples}.values())


def _place(path: str, prefix: str) -> str:
    """Where a path that was given is; the path itself, with a warning, where it is in neither place."""
    inside = os.path.join(prefix, path)
    if inside == path or shards.exists(path):
        return path
    if shards.exists(inside):
        return inside
    logger.warning("%s: neither in the current folder nor at %s (DATA.PATH_PREFIX)", path, inside)
    return path


def _samples(path: str, cfg: CfgNode) -> list[Sample]:
    if path.lower().endswith(LIST_ENDINGS) and not os.path.isdir(path):
        return read_input_list(path, cfg)
    template = cfg.DATA.IMAGE_TEMPLATE
    if not os.path.isdir(path) or os.path.isfile(os.path.join(path, numbered_name(template, 1))):
        return [path_sample(path, template)]
    errors: list[OSError] = []
    contents = list(folders.walk(path, errors.append))
    files = [os.path.join(parent, name) for parent, names in contents for name in names if not name.startswith(".")]
    found = [file for file in files if folders.is_video(file)]
    found = found or [parent for parent, names in contents if folders.has_images(names)]
    unread = [f"{error.filename}: the folder cannot be read ({error.strerror})" for error in errors]
    if not found and unread:
        raise UserError(unread[0])
    if not found:
        kinds = Counter(folders.ending_of(file) or "without an ending" for file in files).most_common(5)
        held = ", ".join(f"{count} {kind}" for kind, count in kinds)
        held = f"without videos or frame folders, but {held}" if held else "without any files"
        endings = " ".join(sorted(folders.VIDEO_ENDINGS))
        raise UserError(f"{path}: a folder {held}. Videos end in {endings}")
    for message in unread:
        logger.warning("left out: %s", message)
    return [path_sample(video, template) for video in sorted(found)]
