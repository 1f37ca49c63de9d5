"""Lists of videos that a command is given (predict, features, explain, export): any format, labels ignored."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from fvcore.common.config import CfgNode

from slowfast_uniformer.data import annotations, shards
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.folders import find_images
from slowfast_uniformer.data.list_numbers import read_segment
from slowfast_uniformer.data.list_reader import Layout, find_header, is_unnamed_header, list_lines, separators_to_try
from slowfast_uniformer.data.list_text import SPACES, check_openable, read_text, unquote
from slowfast_uniformer.errors import UserError

_NUMBERS = re.compile(r"-|-?[\d.]+(,-?[\d.]+)*")  # a label, several labels, no label, a frame count, seconds
_INDEX = re.compile(r'^"?\d+"?[,;\t ]\s*')  # before the path, as pandas writes it
_TRAILING_NUMBERS = re.compile(r"([\s,;]+(-|-?[\d.]+))+$")
Reading = tuple[str, int | None]  # a path and the frame count that the list gives


def read_input_list(path: str, cfg: CfgNode) -> list[Sample]:
    """The videos of a list that a command is given, such as predict, without their labels.

    A line is a path, or a line of TEST.DATASET's format, or a path and labels or names of any other format; with a
    header line it is the column of the path, with those of a segment in seconds if there are any. The first reading
    that leads to a file, frame folder or tar member wins. Paths are searched under DATA.PATH_PREFIX, in the working
    directory and beside the list. A video need not exist: opening it raises the error.

    Raises:
        UserError: The list cannot be read or is empty.
    """
    text, columns = read_text(path, "list of videos"), annotations.format_of(cfg, "test").columns
    folders = [cfg.DATA.PATH_PREFIX, "", os.path.dirname(path)]

    def exists(video: str) -> bool:
        return any(shards.exists(os.path.join(folder, video)) for folder in folders)

    lines, named = list_lines(text, exists)
    separators = separators_to_try(cfg, lines, columns, named)
    if len(lines) > 1 and is_unnamed_header(lines[0][1], separators, columns):
        lines = lines[1:]
    header = None
    if lines and not exists(lines[0][1]):
        optional = [name for name in ("frames", "total") if name in columns]
        header = find_header(path, lines[0], separators, ("path",), optional)
    samples = []
    for number, line in lines[1:] if header else lines:
        part = None
        if header:
            readings, times = _of_columns(line, *header)
            part = read_segment(*times, f"{path}, line {number}") if times else None
        else:
            cut = _cut(line, separators, folders, cfg.DATA.IMAGE_TEMPLATE)
            readings = itertools.chain(_readings(line, separators, columns), cut)
        found, frames = _place(readings, folders)
        sample = Sample(found, UNLABELLED, frames) if frames else path_sample(found, cfg.DATA.IMAGE_TEMPLATE)
        samples.append(replace(sample, part=part, line=number) if part else sample)
    if not samples:
        raise UserError(f"{path}: the list of videos is empty")
    check_openable(path, (sample.path for sample in samples))
    return samples


def _place(readings: Iterable[Reading], folders: Sequence[str]) -> Reading:
    """The first reading that is there, below the first of the folders that has it; or else the last one. Later readings
    are not looked for, since lists are long and looking is slow on network file systems."""
    place: Reading = ("", None)
    for name, frames in readings:
        for folder in folders:
            place = os.path.join(folder, name), frames
            if shards.exists(place[0]):
                return place
    return place


def _of_columns(line: str, separator: str, header: list[str]) -> tuple[list[Reading], list[str]]:
    """The path of a line of a list with a header, and its frame count if it has one; and start and end, if it has."""
    segment = ("start", "end") if {"start", "end"} <= {*header} and "total" not in header else ()
    columns = [name for name in ("path", "frames", *segment) if name in header]
    values, _ = Layout(separator, columns, lambda text: True, header=header).split(line)
    fields = dict(zip(columns, values, strict=True)) if values else {"path": line}
    path, frames = fields["path"], fields.get("frames", "").strip()
    count = int(frames) if frames.isdecimal() else None
    times = [fields[name] for name in segment if name in fields]
    return [(path.strip(SPACES), count), (unquote(path), count)], times


def _readings(line: str, separators: Sequence[str], columns: tuple[str, ...]) -> Iterator[Reading]:
    """Path and frame count that a line can mean, the last one where no video is there."""
    yield line, None
    path, *numbers = line.rsplit(separators[0], len(columns) - 1)
    if len(numbers) == len(columns) - 1 and all(_NUMBERS.fullmatch(number.strip(SPACES)) for number in numbers):
        frames = numbers[0].strip(SPACES) if columns[1] == "frames" else ""
        yield unquote(path), int(frames) if frames.isdecimal() else None
        yield path.strip(SPACES), int(frames) if frames.isdecimal() else None
    yield unquote(_TRAILING_NUMBERS.sub("", line)), None


def _cut(line: str, separators: Sequence[str], folders: Sequence[str], template: str) -> Iterator[Reading]:
    """The path before the labels and names at the end of a line, and after an index: the longest that is a video. If
    there is none, the part before the first tab or semicolon, which names of files hardly ever have."""
    label_first = [line.partition(mark)[2] for mark in separators if mark in "\t;,|"]
    for text in (line, _INDEX.sub("", line), *label_first):
        ends = [m.start() for mark in separators for m in re.finditer(re.escape(mark), text)]
        for end in sorted({*ends, len(text)}, reverse=True):
            for folder in folders:
                found = os.path.join(folder, unquote(text[:end]))
                is_folder = os.path.isdir(found) and not count_frames(found, template)
                if text[:end] and shards.exists(found) and not is_folder:
                    yield unquote(text[:end]), None
                    return
    if match := re.match(r'"(?:[^"]|"")*"|[^\t;]+(?=[\t;])', line):
        yield unquote(match[0]), None


def path_sample(path: str, template: str) -> Sample:
    """The sample, without a label, of a video file, tar member or frame folder."""
    return Sample(path, UNLABELLED, count_frames(path, template) or None)


def count_frames(folder: str, template: str) -> int:
    """Number of frames of a frame folder (`folders.find_images`, for DATA.IMAGE_TEMPLATE). 0 of anything else, and of
    a folder with several series of images: opening it says so."""
    try:
        return find_images(folder, template).frames
    except (OSError, ValueError):
        return 0
