"""Where commands write their files: names that are checked before any work begins, and atomic writing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from slowfast_uniformer import paths
from slowfast_uniformer.data import folders
from slowfast_uniformer.errors import UserError, os_errors_reported


@contextmanager
def atomic_output(path: str) -> Iterator[str]:
    """A temporary path that replaces `path` when the block succeeds (see `paths.atomic_path`).

    Raises:
        UserError: the file cannot be written.
    """
    with os_errors_reported(f"cannot write {path}"), paths.atomic_path(path) as temporary:
        yield temporary


def checked_output(path: str, endings: Sequence[str]) -> str:
    """`path`, the name of a file to write.

    Raises:
        UserError: it has none of the endings, or its folder can neither be written to nor made.
    """
    folder = os.path.dirname(path) or "."
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder) or "."
    if os.path.splitext(path)[1].lower() not in endings:
        raise UserError(f"{path}: the name of the file to write must end in {' or '.join(endings)}")
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"{path}: cannot be written; name a file in a folder of yours")
    return path


def is_file_name(where: str) -> bool:
    """Whether a name is that of a video or picture, and not of a folder such as maps/lr0.001."""
    return folders.ending_of(where) in folders.VIDEO_ENDINGS | folders.IMAGE_ENDINGS and not os.path.isdir(where)


def output_files(where: str, videos: Sequence[str], ending: str) -> list[str]:
    """The file to write for each video.

    Args:
        where: a file with this ending, for a single video, or a folder.
        videos: paths of the videos.
        ending: of the files, such as ".mp4".

    Raises:
        UserError: `where` is neither, or a file would replace one of the videos.
    """
    if folders.ending_of(where) == ending:
        if len(videos) > 1:
            raise UserError(f"{where}: {len(videos)} videos need a file each; name a folder")
        files = [where]
    elif is_file_name(where):
        raise UserError(f"{where}: name a file ending in {ending}, or a folder")
    else:
        files = [os.path.join(where, name) for name in unique_names(videos, ending)]
    given = {os.path.realpath(path) for path in videos}
    if over := next((file for file in files if os.path.realpath(file) in given), None):
        raise UserError(f"{over}: would overwrite a video that was given; name another file or folder")
    return files


def unique_names(paths: Sequence[str], ending: str) -> list[str]:
    """A file name for each path, made of its own name, all different, none hidden or like an option."""
    names: dict[str, None] = {}
    for path in paths:
        stem = os.path.splitext(os.path.basename(os.path.normpath(path)))[0].lstrip(".-") or "video"
        name, number = f"{stem}{ending}", 1
        while name in names:
            number += 1
            name = f"{stem}_{number}{ending}"
        names[name] = None
    return list(names)
