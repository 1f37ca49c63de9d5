"""Lists of videos that a command is given (predict, features, explain, export): any format, labels ignored."""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from fvcore.common.config import CfgNode

from slowfast_uniformer import paths
from slowfast_uniformer.data import annotations, shards
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.errors import UserError

_NUMBERS = re.compile(r"-|-?[\d.]+(,-?[\d.]+)*")  # a label, several labels, no label, a frame count, seconds
_TRAILING_NUMBERS = re.compile(r"([\s,;]+(-|-?[\d.]+))+$")


def read_input_list(path: str, cfg: CfgNode) -> list[Sample]:
    """The videos of a list that a command is given, such as predict, without their labels.

    A line is a path, or a line of TEST.DATASET's format, or a path and numbers of any other format. The first
    reading that leads to a file, frame folder or tar member wins. Paths are searched under DATA.PATH_PREFIX, in
    the working directory and beside the list. A video need not exist: opening it raises the error.

    Raises:
        UserError: The list cannot be read or is empty.
    """
    text, columns = annotations.read_text(path, "list of videos"), annotations.format_of(cfg, "test").columns
    folders = [paths.expand(cfg.DATA.PATH_PREFIX), "", os.path.dirname(path)]
    samples = []
    for row in annotations.line_rows(text, path, cfg, columns):
        readings = [(os.path.join(folder, name), frames) for name, frames in _readings(row) for folder in folders]
        found, frames = next((reading for reading in readings if shards.exists(reading[0])), readings[-1])
        samples.append(Sample(found, UNLABELLED, frames) if frames else path_sample(found, cfg.DATA.IMAGE_TEMPLATE))
    if not samples:
        raise UserError(f"{path}: the list of videos is empty")
    return samples


def _readings(row: annotations.Row) -> Iterator[tuple[str, int | None]]:
    """Path and frame count that a line can mean."""
    yield row.text, None
    with suppress(UserError):  # a line of another format
        path, *numbers = (fields := row.fields()).values()
        if all(_NUMBERS.fullmatch(number.strip()) for number in numbers):
            frames = annotations.parse_number(fields["frames"], "frames", row.where) if "frames" in fields else None
            yield path.strip(), frames
    yield _TRAILING_NUMBERS.sub("", row.text), None


def path_sample(path: str, template: str) -> Sample:
    """The sample, without a label, of a video file, tar member or folder of frames named by `template`."""
    return Sample(path, UNLABELLED, count_frames(path, template) or None)


def count_frames(folder: str, template: str) -> int:
    """Number of images in a frame folder, counted from 1 by `template` (DATA.IMAGE_TEMPLATE) up to the first
    that is missing; other files do not count. 0 if `folder` is no frame folder."""
    images = (os.path.join(folder, template.format(number)) for number in itertools.count(1))
    return sum(1 for _ in itertools.takewhile(os.path.isfile, images))
