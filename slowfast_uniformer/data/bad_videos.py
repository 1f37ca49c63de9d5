"""What goes wrong while data is read: videos that cannot be, and loading processes that die or hang."""

import os
from collections.abc import Iterable

from slowfast_uniformer.errors import UserError


class BadFiles:
    """The videos that could not be read, with causes, in OUTPUT_DIR/bad_files.txt ("path<TAB>cause" a line;
    tools/check_dataset.py writes it too). With `listed`, paths, those of a list alone.

    Training passes over them from then on, in this run and when it is continued; remove a line, or the file,
    to have them tried again.
    """

    def __init__(self, output_dir: str, listed: Iterable[str] | None = None):
        self.path = os.path.join(output_dir, "bad_files.txt")
        self.listed = None if listed is None else set(listed)
        self.causes: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in what this and other processes have written."""
        if os.path.isfile(self.path):
            with open(self.path, encoding="utf-8") as file:
                pairs = (line.rstrip("\n").partition("\t") for line in file if line.strip())
                of_list = (pair for pair in pairs if self.listed is None or pair[0] in self.listed)
                self.causes |= {path: cause for path, _, cause in of_list}

    def add(self, path: str, cause: str) -> bool:
        """Note a video; returns whether it is a new one."""
        if path in self.causes:
            return False
        self.causes[path] = cause
        with open(self.path, "a", encoding="utf-8") as file:  # one write, so that ranks' lines do not mix
            file.write(f"{path}\t{' '.join(cause.split())}\n")
        return True

    def check(self, fraction: float) -> None:
        """Stop a run in which more than this fraction of the listed videos cannot be read."""
        videos = len(self.listed or ())
        if len(self.causes) > fraction * videos:
            some = "\n  ".join(list(self.causes.values())[:10])
            raise UserError(
                f"{len(self.causes)} of {videos} videos cannot be read, more than DATA.MAX_BAD_FRACTION "
                f"{fraction:g} allows. All are in {self.path}, the first:\n  {some}\n"
                "Check DATA.PATH_PREFIX and the files, or raise DATA.MAX_BAD_FRACTION"
            )
