"""Rewrite a collection of videos for training, with the lists that name them; encode.py writes each video.

OUT/transcode.jsonl remembers what is done: the same command continues, and videos that have changed are written again.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
from fvcore.common.config import CfgNode

from slowfast_uniformer.data import encode, folders, shards
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.encode import Settings
from slowfast_uniformer.data.input_lists import path_sample, read_input_list
from slowfast_uniformer.data.list_reader import list_lines
from slowfast_uniformer.data.list_text import SPACES, read_text
from slowfast_uniformer.data.processes import check_stop, work
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_path, atomic_write

JOURNAL = "transcode.jsonl"
LISTS = ("train.csv", "val.csv", "test.csv")  # that a folder's own lists are called
CLASS_FILES = ("classes.txt", "labels.json", "something-something-v2-labels.json")
# Errors of the file system that holds OUT, which would be the same for all videos
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
_RANGE = re.compile(r"@\d+\+\d+$")  # of a tar member
_BETWEEN = r"[\s,;|\"']"  # before and after a path in a list
Facts = dict[str, Any]


class Job(NamedTuple):
    """A video in its present state, and what to make of it.

    Attributes:
        path: Video file, tar member or frame folder.
        frames: Number of frames that the list says a frame folder has, else None.
        state: Bytes and time of the last change, in ns.
        target: The file to write, relative to OUT.
        out: OUT.
        settings: How videos are written.
        template: DATA.IMAGE_TEMPLATE.
    """

    path: str
    frames: int | None
    state: tuple[int, int]
    target: str
    out: str
    settings: Settings
    template: str

    def key(self) -> dict[str, Any]:
        """What tells in the journal whether a file is the one that is wanted."""
        source = os.path.abspath(self.path)
        return {"source": source, "state": list(self.state), "settings": list(self.settings), "frames": self.frames}


class Line(NamedTuple):
    """A line of a list: its text, and the video in it and how the line names that; None for a header or a comment."""

    text: str
    sample: Sample | None = None
    name: str = ""


# ------------------------------------------------------------------------------------------------------- what there is
def read_list(path: str, cfg: CfgNode) -> list[Line]:
    """All lines of a list in any format, with their videos (`read_input_list`).

    Raises:
        UserError: The list cannot be read, or names no files.
    """
    text = read_text(path, "list of videos")
    if text.lstrip()[:1] in ("[", "{"):
        raise UserError(f"{path}: a JSON list has no paths; give the folder of its videos, and use the list as it is")
    samples = read_input_list(path, cfg)
    places = [cfg.DATA.PATH_PREFIX, "", os.path.dirname(path)]
    lines = [Line(line) for line in text.split("\n" if "\n" in text else "\r")]
    # Those without a video (comments, a header) come first where they count as lines at all.
    numbers = [number for number, _ in list_lines(text, lambda video: _exists(video, places))[0]]
    for number, sample in zip(numbers[-len(samples) :], samples, strict=True):
        text = lines[number - 1].text
        names = {sample.path.removeprefix(os.path.join(place, "")) for place in places}
        written = next((name for name in sorted(names, key=len, reverse=True) if _place(text, name)), None)
        if written is None:
            raise UserError(f"{path}, line {number}: cannot tell where its path is, found {text!r}")
        lines[number - 1] = Line(text, sample, written)
    return lines


def _exists(video: str, places: Iterable[str]) -> bool:
    return any(shards.exists(os.path.join(place, video)) for place in places)


def _place(text: str, name: str) -> tuple[int, int] | None:
    """Where a line has a name: between separators, or anywhere."""
    if text.startswith(name) and text[len(name) : len(name) + 1] in SPACES:  # nearly all
        return 0, len(name)
    for written in (name, name.replace('"', '""')):
        if written not in text:
            continue
        bounded = rf"(?:^|(?<={_BETWEEN})){re.escape(written)}(?=$|{_BETWEEN})"
        if match := re.search(bounded, text) or re.search(re.escape(written), text):
            return match.span()
    return None


def find_videos(folder: str, out: str, template: str) -> list[Sample]:
    """Video files at any depth below a folder or, where there are none, frame folders; nothing below `out`.

    Raises:
        UserError: There is none, or a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    videos: list[str] = []
    frame_folders: list[str] = []
    written = os.path.join(os.path.realpath(out), "")
    for parent, names in folders.walk(folder, fail):
        if os.path.join(os.path.realpath(parent), "").startswith(written):
            continue
        files = [os.path.join(parent, name) for name in names if not name.startswith(".")]
        videos += [file for file in files if folders.is_video(file)]
        frame_folders += [parent] if parent != folder and folders.has_images(names) else []
        if tar := next((file for file in files if file.endswith(".tar")), None):
            raise UserError(
                f"{tar}: to rewrite videos in tar files, write lists first (uniformer lists {folder} --out "
                f"LISTS), and give each of these with --prefix {folder}"
            )
    found = videos or frame_folders
    if os.path.join(os.path.realpath(folder), "").startswith(written):
        raise UserError(f"{folder}: is OUT, {out}, or within it; choose another OUT")
    if not found:
        raise UserError(f"{folder}: no videos and no folders of images in it")
    return [path_sample(path, template) for path in found]


def relative_name(name: str, prefix: str) -> str:
    """Where a video goes below OUT: its path as the list names it, or from the prefix or the root of the system."""
    path = os.path.normpath(_RANGE.sub("", name))
    if prefix and os.path.isabs(path):
        inside = os.path.relpath(path, os.path.abspath(prefix))
        path = path if inside.startswith("..") else inside
    if os.path.isabs(path) or path.split(os.sep)[0] == "..":
        path = os.path.relpath(os.path.abspath(path), os.sep)
    return path


# ---------------------------------------------------------------------------------------------------------- the work
def make_jobs(named: Sequence[tuple[Sample, str]], out: str, settings: Settings, template: str) -> list[Job]:
    """A job for each video. Of two that differ in their ending only, the second keeps its own before .mp4.

    Args:
        named: Videos, and where they go below `out`, with their own endings.
        out: The folder to write to.
        settings: How videos are written.
        template: DATA.IMAGE_TEMPLATE.
    """
    taken: dict[str, str] = {entry["target"]: entry["source"] for entry in read_journal(out).values()}
    target_of = {source: target for target, source in taken.items()}
    jobs: dict[str, Job] = {}
    for sample, name in sorted(named, key=lambda item: not item[1].endswith(".mp4")):  # those keep their names
        source = os.path.abspath(sample.path)
        if source in jobs:
            continue
        stem = os.path.splitext(name)[0] if folders.ending_of(name) in folders.VIDEO_ENDINGS else name
        target = target_of.get(source, "")
        choices = [f"{stem}.mp4", f"{name}.mp4"]
        if os.path.splitext(target)[0] not in (stem, name):
            target = next((choice for choice in choices if taken.get(choice, source) == source), "")
        number = 2
        while not target:
            if taken.get(choice := f"{name}.{number}.mp4", source) == source:
                target = choice
            number += 1
        taken[target] = source
        if os.path.abspath(os.path.join(out, target)) == source:
            raise UserError(f"{sample.path}: its transcoded video would overwrite it; choose another OUT than {out}")
        jobs[source] = Job(sample.path, sample.frames, file_state(sample.path), target, out, settings, template)
    return list(jobs.values())


def file_state(path: str) -> tuple[int, int]:
    """Bytes and the last change (ns) of a file, of the tar of a member, or of all files of a folder; -1 of none."""
    path = shards.file_of(path)
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                states = [entry.stat() for entry in entries if entry.is_file()]
            return sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)
        state = os.stat(path)
        return state.st_size, state.st_mtime_ns
    except OSError:
        return -1, 0


def read_journal(out: str) -> dict[str, Facts]:
    """The last entry of each target."""
    entries: dict[str, Facts] = {}
    path = os.path.join(out, JOURNAL)
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("}\n"):  # others were cut off
                    entry = json.loads(line)
                    entries[entry["target"]] = entry
    return entries


def is_done(job: Job, journal: dict[str, Facts]) -> bool:
    """Whether the file is there already, made of the same video in the same way."""
    entry = journal.get(job.target)
    if not entry or any(entry[name] != value for name, value in job.key().items()):
        return False
    try:
        return os.path.getsize(os.path.join(job.out, job.target)) == entry["facts"]["after"]["bytes"]
    except OSError:
        return False


def transcode(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Facts]]:
    """Write the files of jobs that are not done, and note each in the journal.

    Yields:
        Each job and what `encode.encode` says of it, with `bytes` before and after; or `error`.

    Raises:
        UserError: The file system takes no more.
    """
    if not jobs:
        return
    out = jobs[0].out
    remove_leftovers(jobs)
    try:
        path = os.path.join(out, JOURNAL)
        os.makedirs(out, exist_ok=True)
        with open(path, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) not in (b"", b"\n"):  # the last write was interrupted
                file.write(b"\n")
            for job, facts in work(transcode_one, jobs, workers, _crashed):
                if "error" not in facts:
                    entry = {"target": job.target, **job.key(), "facts": facts}
                    file.write(json.dumps(entry).encode() + b"\n")
                    file.flush()
                yield job, facts
    except OSError as error:
        raise _disk_fault(out, error) from error
    finally:
        remove_leftovers(jobs)


def transcode_one(job: Job) -> Facts:
    """Write the file of a job.

    Raises:
        UserError: The file system takes no more.
    """
    target = os.path.join(job.out, job.target)
    try:
        if os.path.lexists(target) and not _is_ours(target):
            return {"error": f"{target} is there already, and not of this command; move it, or choose another OUT"}
        sample = Sample(job.path, UNLABELLED, job.frames)
        facts = encode.encode(sample, target, job.settings, job.template, check_stop)
    except VideoError as error:
        return {"error": str(error)}
    except Exception as error:  # damaged files can raise anything
        if getattr(error, "errno", None) in OF_THE_DISK:
            raise _disk_fault(target, error) from None
        return {"error": f"cannot transcode {job.path}: {type(error).__name__}: {error}"}
    facts["before"]["bytes"] = _video_bytes(job)
    facts["after"]["bytes"] = os.path.getsize(target)
    return facts


def _crashed(job: Job) -> Facts:
    return {"error": f"cannot transcode {job.path}: the process that does it crashes or is killed"}


def _disk_fault(path: str, error: Exception) -> UserError:
    cause = getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be written ({cause}); once it can, run the same command again to continue")


def _is_ours(path: str) -> bool:
    try:
        with av.open("file:" + path, metadata_errors="ignore") as container:
            return container.metadata.get("comment") == encode.MARK
    except (av.FFmpegError, OSError):
        return False


def _video_bytes(job: Job) -> int:
    member = shards.opener(job.path)
    if not member:
        return job.state[0]
    with member() as file:
        return file.seek(0, os.SEEK_END)


def remove_leftovers(jobs: Iterable[Job]) -> None:
    """Remove the temporary files (`atomic_path`) of processes that were killed while they wrote these targets."""
    names: dict[str, set[str]] = {}
    for job in jobs:
        folder, name = os.path.split(os.path.join(job.out, job.target))
        names.setdefault(folder, set()).add(name)
    for folder, targets in names.items():
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if (match := re.fullmatch(r"\.\d+\.(.+)", name)) and match[1] in targets:
                os.remove(os.path.join(folder, name))


# ---------------------------------------------------------------------------------------------------------- new lists
def write_list(path: str, lines: Sequence[Line], targets: dict[str, str], out: str) -> int:
    """Write a list beside the new videos: the same lines, with the new paths and without videos that failed.

    Args:
        path: The list that the lines are of.
        lines: Of `read_list`.
        targets: By absolute path of a video, its file below `out`.
        out: Where to write.

    Returns:
        The number of videos in the list.

    Raises:
        UserError: The list cannot be written.
    """
    texts, videos = [], 0
    for line in lines:
        if line.sample is None:
            texts.append(line.text)
        elif target := targets.get(os.path.abspath(line.sample.path)):
            start, end = _place(line.text, line.name)
            quote = line.text[start - 1 : start] == '"'
            new = os.path.join(os.path.abspath(out), target) if os.path.isabs(line.name) else target
            texts.append(line.text[:start] + (new.replace('"', '""') if quote else new) + line.text[end:])
            videos += 1
    target = os.path.join(out, os.path.basename(path))
    if os.path.exists(target) and os.path.samefile(target, path):
        raise UserError(f"{path}: the new list would overwrite it; choose another OUT than {out}")
    try:
        atomic_write(target, "\n".join(texts))
    except OSError as error:
        raise _disk_fault(target, error) from None
    return videos


def copy_class_files(folder: str, out: str) -> None:
    """Copy the files of class names that lie beside lists.

    Raises:
        UserError: One cannot be copied.
    """
    for name in CLASS_FILES:
        source, target = Path(folder, name), Path(out, name)
        if source.is_file() and not (target.exists() and target.samefile(source)):
            try:
                with atomic_path(target) as temporary:
                    shutil.copyfile(source, temporary)
            except OSError as error:
                raise _disk_fault(str(target), error) from None
