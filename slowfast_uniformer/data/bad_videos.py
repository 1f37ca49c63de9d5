"""bad_files.txt: the videos of a run that could not be read, and which of them a start tries again."""

import json
import logging
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from slowfast_uniformer.data import shards
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.paths import atomic_write
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)
_SHOWN = 3  # videos that a message names
State = tuple[int, int]  # bytes, and time of the last change in ns


class BadVideo(NamedTuple):
    """A video that could not be read.

    Attributes:
        path: The video.
        cause: The message of the error.
        state: The damaged file as it was (`file_state`). None if the file may be fine: it was missing, could not be
            reached, or was not read in time.
    """

    path: str
    cause: str
    state: State | None = None

    def is_worth_another_try(self) -> bool:
        """Whether the video is there, and is not the damaged file that it was."""
        return file_state(self.path) not in (None, self.state)


class BadVideos:
    """Unreadable videos in OUTPUT_DIR/bad_files.txt, one "path<TAB>cause<TAB>bytes time" per line.

    Training skips damaged files from then on, also after a restart, until they change (`forget_changed`). The data set
    check writes the file too. A path with tabs, line breaks or bytes that are not UTF-8 is a JSON string. Processes
    append to the file as they like: a line that was cut off is left out, or tried again.

    Args:
        output_dir: Folder of the run.
        listed: The list in use; videos in the file that are not in it are ignored. None for all.
    """

    def __init__(self, output_dir: str, listed: SampleList | None = None):
        self.path = os.path.join(output_dir, "bad_files.txt")
        self.listed = listed
        self.videos: dict[str, BadVideo] = {}
        self.added = 0  # by this process
        if os.path.isfile(self.path):
            with open(self.path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                self.videos = {video.path: video for video in filter(None, map(_parse, file))}
            if listed is not None:
                known = listed.among(self.videos)
                self.videos = {path: video for path, video in self.videos.items() if path in known}

    @property
    def damaged(self) -> dict[str, BadVideo]:
        """The damaged ones by path; the others are not there and may be back at any time."""
        return {path: video for path, video in self.videos.items() if video.state}

    def add(self, video: BadVideo) -> bool:
        """Append a video to the file; returns whether it is a new one."""
        if video.path in self.videos:
            return False
        self.videos[video.path] = video
        self.added += 1
        try:
            with open(self.path, "ab+", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                line = _line(video)
                if file.read(1) not in (b"", b"\n"):  # whoever wrote last was killed meanwhile
                    line = "\n" + line
                file.write(line.encode())  # a single write, so that lines of ranks do not mix
        except OSError as error:  # a full disk does not end a training
            logger.warning("%s: cannot be written (%s)", self.path, error.strerror)
        return True

    def replace(self, videos: Iterable[BadVideo]) -> None:
        """Replace the file's content by these videos."""
        self.videos = {video.path: video for video in videos}
        atomic_write(self.path, "".join(map(_line, self.videos.values())))

    def drop_changed(self) -> list[str]:
        """Leave out those that are worth another try, here but not in the file; returns their paths."""
        changed = [path for path, video in self.videos.items() if video.is_worth_another_try()]
        for path in changed:
            del self.videos[path]
        return changed

    def check(self, fraction: float) -> None:
        """Raise UserError if more than this fraction of the listed videos cannot be read, now as then."""
        if not self.videos:
            return
        total = self.listed.num_paths if self.listed else 0
        if len(self.videos) <= fraction * total or (self.drop_changed() and len(self.videos) <= fraction * total):
            return
        some = "\n  ".join([video.cause for video in self.videos.values()][:_SHOWN])
        away = sum(file_state(path) is None for path in self.videos)
        hint = f"{away} are not there now: if a disk or mount is away, start again once it is back. " if away else ""
        raise UserError(
            f"{len(self.videos)} of {counted(total, 'video')} cannot be read, more than DATA.MAX_BAD_FRACTION "
            f"{fraction:g} allows. All are in {self.path}, the first:\n  {some}\n"
            f"{hint}Check DATA.PATH_PREFIX and the files, or raise DATA.MAX_BAD_FRACTION"
        )


def forget_changed(output_dir: str, listed: SampleList, fraction: float) -> None:
    """Take the videos out of bad_files.txt that are worth another try, and log what was found.

    Rank 0 does so when a training starts: the same videos are bad on all ranks. Nothing is opened, since there can be
    thousands; a video that still cannot be read is noted again when its turn comes.

    Args:
        output_dir: Folder of the run.
        listed: The train list.
        fraction: DATA.MAX_BAD_FRACTION.

    Raises:
        UserError: More than this fraction of the videos is left, or the file cannot be written.
    """
    bad_videos = BadVideos(output_dir, listed)
    if not (noted := len(bad_videos.videos)):
        return
    if changed := set(bad_videos.drop_changed()):
        file = BadVideos(output_dir)  # with the videos of other lists
        with os_errors_reported(f"OUTPUT_DIR: cannot write {file.path}"):
            file.replace([video for video in file.videos.values() if video.path not in changed])
    missing = [path for path in bad_videos.videos if file_state(path) is None]
    parts = []
    if changed:
        parts.append(f"{len(changed)} there now or changed, tried again ({_first(sorted(changed))})")
    if missing:
        parts.append(f"{len(missing)} missing ({_first(missing)})")
    if unchanged := noted - len(changed) - len(missing):
        parts.append(f"{unchanged} unchanged, skipped")
    logger.info("bad_files.txt has %s: %s", counted(noted, "unreadable video"), "; ".join(parts))
    bad_videos.check(fraction)


def bad_video(path: str, error: VideoError) -> BadVideo:
    """The note on a video that raised `error`."""
    return BadVideo(path, str(error), None if error.transient else file_state(path))


def file_state(path: str) -> State | None:
    """Bytes and time of the last change of a video file, of the tar file that it is in, or of all images of a frame
    folder. None if it is not there or cannot be reached."""
    try:
        place = shards.file_of(path)
        status = os.stat(place)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size, status.st_mtime_ns
        with os.scandir(place) as entries:
            images = [entry.stat() for entry in entries]
    except OSError:
        return None
    return sum(each.st_size for each in images), max(each.st_mtime_ns for each in (status, *images))


def _first(paths: list[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")


def _line(video: BadVideo) -> str:
    path, cause = video.path, " ".join(video.cause.encode("utf-8", "backslashreplace").decode().split())
    if re.search('^"|[\t\r\n\ud800-\udfff]', path):
        path = json.dumps(path)
    return "\t".join([path, cause, *([f"{video.state[0]} {video.state[1]}"] if video.state else [])]) + "\n"


def _parse(line: str) -> BadVideo | None:
    """The video of a line; None if it is no complete line. Versions before wrote no state."""
    path, *rest = line.rstrip("\r\n").split("\t")
    if not rest:
        return None
    if path.startswith('"'):
        with suppress(ValueError):  # a name that begins so
            path = str(json.loads(path))
    state = re.fullmatch(r"(\d+) (\d+)", rest[1]) if len(rest) == 2 else None
    return BadVideo(path, rest[0], (int(state[1]), int(state[2])) if state else None)
