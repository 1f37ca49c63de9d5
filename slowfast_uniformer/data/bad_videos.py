"""bad_files.txt: the videos of a run that could not be read."""

import os
from collections.abc import Iterable

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_write


class BadVideos:
    """Unreadable videos and the causes, in OUTPUT_DIR/bad_files.txt (one "path<TAB>cause" per line).

    Training skips them from then on, also after a restart. Remove a line, or the file, to have them tried again.
    The data set check writes the file too.

    Args:
        output_dir: Folder of the run.
        listed: Paths of the list in use; others in the file are ignored. None for all.
    """

    def __init__(self, output_dir: str, listed: Iterable[str] | None = None):
        self.path = os.path.join(output_dir, "bad_files.txt")
        self.listed = None if listed is None else set(listed)
        self.causes: dict[str, str] = {}
        if os.path.isfile(self.path):
            with open(self.path, encoding="utf-8") as file:
                for line in filter(str.strip, file):
                    path, _, cause = line.rstrip("\n").partition("\t")
                    if self.listed is None or path in self.listed:
                        self.causes[path] = cause

    def add(self, path: str, cause: str) -> bool:
        """Append a video to the file; returns whether it is a new one."""
        if path in self.causes:
            return False
        self.causes[path] = cause
        with open(self.path, "a", encoding="utf-8") as file:  # a single write, so that lines of ranks do not mix
            file.write(_line(path, cause))
        return True

    def replace(self, causes: dict[str, str]) -> None:
        """Replace the file's content by these videos (path to cause)."""
        self.causes = causes
        atomic_write(self.path, "".join(_line(path, cause) for path, cause in causes.items()))

    def check(self, fraction: float) -> None:
        """Raise UserError if more than this fraction of the listed videos cannot be read."""
        videos = len(self.listed or ())
        if len(self.causes) > fraction * videos:
            some = "\n  ".join(list(self.causes.values())[:10])
            raise UserError(
                f"{len(self.causes)} of {videos} videos cannot be read, more than DATA.MAX_BAD_FRACTION "
                f"{fraction:g} allows. All are in {self.path}, the first:\n  {some}\n"
                "Check DATA.PATH_PREFIX and the files, or raise DATA.MAX_BAD_FRACTION"
            )


def _line(path: str, cause: str) -> str:
    return f"{path}\t{' '.join(cause.split())}\n"
