"""The videos of a list, held as arrays: a million of them take some 60 MB, and processes that are forked share them.

As Python objects they would take eight times as much, and each DataLoader worker that walks over them would come to own
a copy: reading an object writes to its reference count. Imports no NumPy before figures of a whole list are asked for.
"""

import json
import mmap
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, islice, pairwise

UNLABELLED = -1  # label of a video whose class only the data set's owner knows; valid in test lists alone
Part = tuple[float, float, float]  # start, end and total length, all in one unit
SECONDS = -1.0  # in the place of the total: start and end are seconds of the video
Label = int | tuple[int, ...]
_TYPES = {"paths": "B", "ends": "q", "labels": "i", "label_ends": "q", "frames": "i", "parts": "d"}
_TYPES |= {"lines": "i", "groups": "i", "group_names": "B"}
_ENCODING = ("utf-8", "surrogatepass")
_HEADER, _ALIGNMENT = 512, 64  # bytes, of a file
_BLOCK = 16384  # videos that are Python objects at the same time


@dataclass(frozen=True)
class Sample:
    """One video of a list.

    Attributes:
        path: Video file, frame folder or tar member.
        label: Class index; with DATA.MULTI_LABEL a tuple of class indices.
        frames: Number of frames of a frame folder; None for video files.
        part: The annotated part; None for the whole video.
        line: Where the list has it; known where `part` is in seconds.
        group: What it belongs to, such as a person or a recording; "" if the list does not say.
    """

    path: str
    label: Label
    frames: int | None = None
    part: Part | None = None
    line: int | None = field(default=None, compare=False)
    group: str = ""

    @property
    def segment(self) -> tuple[float, float] | None:
        """Start and end in seconds, of a part that the list gives so."""
        return self.part[:2] if self.part and self.part[2] == SECONDS else None

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels: one, several with DATA.MULTI_LABEL, none for an unlabelled video."""
        if isinstance(self.label, tuple):
            return self.label
        return () if self.label == UNLABELLED else (self.label,)


class Columns:
    """The arrays of a list while it is read.

    paths: UTF-8, a zero byte after each; ends: where each path begins, and the last one ends, zero bytes included;
    labels: int32; label_ends: the same as `ends` for several labels a video, else empty; frames: int32, 0 for none;
    parts: start, end and total of each video, a total of 0 for none. The last two are empty where no video has any.
    lines: int32, the line of each video; groups: int32, the number of its group among group_names, UTF-8 with a zero
    byte after each. Empty where they are not known.
    """

    def __init__(self) -> None:
        self.arrays = {name: array(kind) for name, kind in _TYPES.items()}
        self.arrays |= {"paths": bytearray(), "group_names": bytearray()}
        self.arrays["ends"].append(0)
        self._groups: dict[str, int] = {}

    def extend(
        self,
        paths: Sequence[str],
        labels: Sequence[Label],
        frames: Sequence[int] = (),
        parts: Iterable[float] = (),
        lines: Sequence[int] = (),
        groups: Sequence[str] = (),
    ) -> None:
        """Append videos; `parts` are three numbers for each."""
        arrays = self.arrays
        encoded = [path.encode(*_ENCODING) for path in paths]
        ends = accumulate((len(path) + 1 for path in encoded), initial=len(arrays["paths"]))
        arrays["ends"].extend(islice(ends, 1, None))
        arrays["paths"] += b"\0".join([*encoded, b""])
        if labels and isinstance(labels[0], tuple):
            arrays["label_ends"].extend([] if arrays["label_ends"] else [0])
            ends = accumulate(map(len, labels), initial=len(arrays["labels"]))
            arrays["label_ends"].extend(islice(ends, 1, None))
            labels = list(chain.from_iterable(labels))
        arrays["labels"].extend(labels)
        arrays["frames"].extend(frames)
        arrays["parts"].extend(parts)
        arrays["lines"].extend(lines)
        for group in dict.fromkeys(groups):
            if group not in self._groups:
                self._groups[group] = len(self._groups)
                arrays["group_names"] += group.encode(*_ENCODING) + b"\0"
        arrays["groups"].extend(map(self._groups.__getitem__, groups))


class SampleList(Sequence[Sample]):
    """The videos of a list, each made when it is asked for.

    Args:
        columns: Buffers of the arrays that `Columns` describes.
        root: The folder of paths that are not absolute (DATA.PATH_PREFIX).
    """

    def __init__(self, columns: dict[str, bytes | bytearray | array | memoryview], root: str = ""):
        self._columns = {}
        for name, kind in _TYPES.items():
            view = memoryview(columns[name])
            self._columns[name] = view.cast("B").cast(kind) if len(view) else view  # an empty one cannot be cast
        self._root = os.path.join(root, "")  # empty, or with a slash at its end

    @classmethod
    def of(cls, samples: Iterable[Sample], root: str = "") -> "SampleList":
        """A list of these samples, whose paths are in `root`."""
        columns, samples = Columns(), iter(samples)
        while block := list(islice(samples, _BLOCK)):
            frames = [sample.frames or 0 for sample in block]
            parts = chain.from_iterable(sample.part or (0, 0, 0) for sample in block)
            lines, groups = [sample.line or 0 for sample in block], [sample.group for sample in block]
            paths, labels = [sample.path for sample in block], [sample.label for sample in block]
            columns.extend(paths, labels, frames, parts, lines, groups)
        if columns.arrays["group_names"] == b"\0":  # of the group ""
            columns.arrays |= {"groups": array("i"), "group_names": bytearray()}
        for name in ("frames", "parts", "lines"):
            if not any(columns.arrays[name]):
                columns.arrays[name] = array(_TYPES[name])
        return cls(columns.arrays, root)

    def __len__(self) -> int:
        return len(self._columns["ends"]) - 1

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        index = range(len(self))[index]  # IndexError, and negative ones
        columns, ends, label_ends = self._columns, self._columns["ends"], self._columns["label_ends"]
        path = str(columns["paths"][ends[index] : ends[index + 1] - 1], *_ENCODING)
        if label_ends:
            label: Label = tuple(columns["labels"][label_ends[index] : label_ends[index + 1]])
        else:
            label = columns["labels"][index]
        frames = columns["frames"][index] if columns["frames"] else 0
        part = tuple(columns["parts"][3 * index : 3 * index + 3]) if columns["parts"] else (0, 0, 0)
        line = columns["lines"][index] if columns["lines"] else 0
        group = self._group_names[columns["groups"][index]] if columns["groups"] else ""
        path = os.path.join(self._root, path)
        return Sample(path, label, frames or None, part if part[2] else None, line or None, group)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Sample.__eq__, self, other))

    __hash__ = None

    def __reduce__(self) -> tuple:
        return SampleList, ({name: bytes(column) for name, column in self._columns.items()}, self._root)

    @cached_property
    def _group_names(self) -> list[str]:
        return bytes(self._columns["group_names"]).decode(*_ENCODING).split("\0")

    @property
    def has_segments(self) -> bool:
        """Whether videos have segments in seconds."""
        return bool(self._columns["lines"])

    @property
    def has_groups(self) -> bool:
        """Whether the list says to which group each video belongs."""
        return bool(self._columns["groups"])

    @cached_property
    def groups(self) -> set[str]:
        """Names of the groups that some video belongs to."""
        return {self._group_names[number] for number in set(self._columns["groups"])} - {""}

    # ------------------------------------------------------------------------------------- figures of the whole list
    @cached_property
    def checksum(self) -> int:
        """Of paths (without the root), labels, frame counts and parts, in order."""
        checksum = 0
        for name in ("paths", "ends", "labels", "label_ends", "frames", "parts"):
            checksum = zlib.crc32(self._columns[name], checksum)
        return checksum

    @cached_property
    def used_labels(self) -> set[int]:
        """The labels that some video has."""
        return set(self._columns["labels"]) - {UNLABELLED}

    def label_pairs(self) -> tuple["np.ndarray", "np.ndarray"]:  # noqa: F821
        """Each label of each video, and the number of that video: (L,) int32 and int64, without UNLABELLED."""
        import numpy as np

        labels, videos = np.array(self._columns["labels"], np.int32), np.arange(len(self))
        if ends := self._columns["label_ends"]:
            videos = np.repeat(videos, np.diff(ends))
        return labels[labels != UNLABELLED], videos[labels != UNLABELLED]

    @property
    def num_labelled(self) -> int:
        """Videos that have a label; with DATA.MULTI_LABEL all."""
        return len(self) - array("i", self._columns["labels"]).count(UNLABELLED)

    @cached_property
    def num_paths(self) -> int:
        """Different paths: the parts of a video are samples of their own."""
        return len(_different(self._hashes))

    def contradictions(self) -> list[tuple[int, int]]:
        """The numbers of two samples that have the same path and different labels: the first of that path, and another
        one. By the latter in order; not for several labels a video."""
        if self.num_paths == len(self):
            return []
        import numpy as np

        order = np.argsort(self._hashes, kind="stable")
        hashes, labels = self._hashes[order], np.frombuffer(self._columns["labels"], np.int32)
        begins = np.append(True, hashes[1:] != hashes[:-1])
        first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        differ = labels[order] != labels[first]
        return sorted(zip(first[differ].tolist(), order[differ].tolist(), strict=True), key=lambda pair: pair[1])

    def paths_shared_with(self, other: "SampleList") -> int:
        """How many paths another list has, too."""
        import numpy as np

        return len(np.intersect1d(_different(self._hashes), _different(other._hashes), assume_unique=True))

    def among(self, paths: Iterable[str]) -> set[str]:
        """Those of these paths that are in the list."""
        wanted = {path.encode(*_ENCODING): path for path in paths}
        return {wanted[path] for block in (self._full_paths() if wanted else ()) for path in wanted.keys() & block}

    @cached_property
    def _hashes(self) -> "np.ndarray":  # noqa: F821
        """Of the paths; of 64 bits: among a million two hardly ever agree."""
        import numpy as np

        blocks = [np.fromiter(map(hash, block), np.int64, len(block)) for block in self._full_paths()]
        return np.concatenate([*blocks, np.empty(0, np.int64)])

    def _full_paths(self) -> Iterator[list[bytes]]:
        """All paths with the root, in blocks."""
        ends, root = self._columns["ends"], self._root.encode(*_ENCODING)
        for first, last in pairwise([*range(0, len(self), _BLOCK), len(self)]):
            paths = bytes(self._columns["paths"][ends[first] : ends[last] - 1]).split(b"\0")
            yield [path if path.startswith(b"/") else root + path for path in paths]

    # -------------------------------------------------------------------------------------------------------- a file
    def save(self, path: str | os.PathLike) -> None:
        """Write the arrays to a file that `map_file` reads. Raises OSError."""
        header = json.dumps({name: self._columns[name].nbytes for name in _TYPES}).encode()
        with open(path, "wb") as file:
            file.write(header.ljust(_HEADER))
            for column in self._columns.values():
                file.write(column)
                file.write(bytes(-column.nbytes % _ALIGNMENT))

    @classmethod
    def map_file(cls, path: str | os.PathLike, root: str = "") -> "SampleList":
        """The list that `save` wrote. All processes that map the file share its memory.

        Raises:
            OSError: The file cannot be read.
        """
        with open(path, "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        columns, start = {}, _HEADER
        for name, size in json.loads(bytes(content[:_HEADER])).items():
            columns[name] = content[start : start + size]
            start += size + -size % _ALIGNMENT
        return cls(columns, root)


def _different(hashes: "np.ndarray") -> "np.ndarray":  # noqa: F821
    """Each once, sorted; `np.unique` takes much longer."""
    import numpy as np

    hashes = np.sort(hashes)
    return hashes[np.append(True, hashes[1:] != hashes[:-1])] if len(hashes) else hashes
