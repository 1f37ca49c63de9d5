"""Videos of one source on both sides of a split, by name, by file and by what they show: scores on them say little.

All here are guesses to be looked at, but for segments that overlap.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from slowfast_uniformer.wording import counted

if TYPE_CHECKING:
    from slowfast_uniformer.analysis.dataset_check import Entry, Finding

# The end of a name that counts the clips of a source: "_03", " (2)", "-take4", "_seg_2", "_12.5_17", "_copy"
_COUNTER = re.compile(
    r"(?:(?:^|[\W_]+)(?:copy|seg|segment|clip|part|take|trial|rep|scene|shot|chunk|cut|cam|view|v|c|t|s|p|r))?"
    r"(?:[\W_]*\(?\d+\)?(?:[._-]+\d+)*|(?<=copy))$",
    re.I,
)
LARGEST = 0.5  # share of all videos above which a common beginning of names is that of the data set
OF_A_CLASS = 0.8  # share of a class's videos from which on it is that of the class
# Bits of a signature, and by how many at most two copies of a video differ. Two of 60 clips of tennis differed by 124,
# as the middle of all pairs. Of the 70 in its val list 4 had a training clip within 24: all of one recording, by eye.
BITS, ALIKE = 256, 24
_BANDS = ALIKE + 1  # one of them is equal, then


def source_of(path: str) -> str:
    """The folder and the name without what counts the clips of a source: a/run_p3 of a/run_p3_clip2.mp4."""
    stem = os.path.splitext(path)[0]
    folder, name = os.path.split(stem)
    return os.path.join(folder, _COUNTER.sub("", name))


def shared_sources(entries: Sequence["Entry"]) -> Iterator["Finding"]:
    """Videos outside of training from a file, or by their names from a source, that training has, too."""
    train = [entry for entry in entries if entry.split == "train"]
    by_path = _by(train, [entry.sample.path for entry in train])
    sources = {entry.sample.path: source_of(entry.sample.path) for entry in entries}
    by_source = {name: first for name, (first, *_) in _by(train, [sources[e.sample.path] for e in train]).items()}
    telling, noted = _telling(sources, entries), set()
    yield from _shared_groups(entries, train)
    for entry in entries:
        path = entry.sample.path
        if entry.split == "train" or (entry.split, path) in noted:
            continue
        if entry.sample.segment and path in by_path:
            finding = _of_one_video(entry, by_path[path])
        elif path not in by_path and sources[path] in telling and (other := by_source.get(sources[path])):
            finding = entry.found("same source", f"by its name, as line {other.line} of train, {other.sample.path}")
        else:
            continue
        if finding:
            yield finding
            if finding.finding == "same source":
                noted.add((entry.split, path))


def _shared_groups(entries: Sequence["Entry"], train: Sequence["Entry"]) -> Iterator["Finding"]:
    """Groups of the lists themselves that are on both sides: an entry of each."""
    first = {entry.sample.group: entry for entry in reversed(train) if entry.sample.group}
    others = {(e.split, e.sample.group): e for e in reversed(entries) if e.split != "train" and e.sample.group in first}
    for (_, group), entry in others.items():
        yield entry.found("leak", f"of the group {group}, as line {first[group].line} of train")


def _of_one_video(entry: "Entry", train: Sequence["Entry"]) -> "Finding | None":
    """Of a segment, and lines of the same video in the train list."""
    segment, first = entry.sample.segment, train[0]
    if segment in [other.sample.segment for other in train]:
        return None  # a leak by its path
    if overlapping := next((other for other in train if _overlap(segment, other.sample.segment)), None):
        times = "{:g} to {:g} s".format(*overlapping.sample.segment) if overlapping.sample.segment else "all"
        return entry.found("leak", f"overlaps {times} of the same video, line {overlapping.line} of train")
    return entry.found(
        "same source", f"{counted(len(train), 'segment')} of this video in train, too, first line {first.line}"
    )


def _by(entries: Sequence["Entry"], keys: Sequence[str]) -> dict[str, list["Entry"]]:
    found = defaultdict(list)
    for key, entry in zip(keys, entries, strict=True):
        found[key].append(entry)
    return found


def _telling(sources: Mapping[str, str], entries: Sequence["Entry"]) -> set[str]:
    """Sources that names tell: not what all videos, or those of a class or of its folder, have in common."""
    labels = {entry.sample.path: entry.sample.labels for entry in entries}
    counts, sizes = Counter(sources.values()), Counter(label for found in labels.values() for label in found)
    in_class = Counter((sources[path], label) for path, found in labels.items() for label in found)
    in_folder = Counter(map(os.path.dirname, sources))
    of_a_class = {name for (name, label), count in in_class.items() if count >= OF_A_CLASS * sizes[label]}
    several = Counter(name for name, _ in in_class)  # labels
    return {
        name
        for name, count in counts.items()
        if 1 < count <= LARGEST * len(sources)
        and name not in of_a_class
        and (several[name] > 1 or (os.path.basename(name) and count < in_folder[os.path.dirname(name)]))
    }


def _overlap(one: tuple[float, float], other: tuple[float, float] | None) -> bool:
    """Whether two segments share a moment; None is the whole video."""
    return other is None or (one[0] < other[1] and other[0] < one[1])


def look_alikes(entries: Sequence["Entry"], known: set[tuple[str, int]]) -> Iterator["Finding"]:
    """Videos outside of training whose frames are nearly those of a training video: written anew, or cut a little.

    Args:
        entries: All lines of the lists.
        known: Split and line of those that are known to be in training.
    """
    train = {entry.sample.path: entry for entry in reversed(entries) if entry.split == "train"}
    bands: dict[tuple[int, int], list[tuple[int, Entry]]] = defaultdict(list)
    for entry in train.values():
        if looks := entry.facts.get("looks"):
            for band in _bands(int(looks, 16)):
                bands[band].append((int(looks, 16), entry))
    for split in dict.fromkeys(entry.split for entry in entries if entry.split != "train"):
        others = {entry.sample.path: entry for entry in reversed(entries) if entry.split == split}
        others = [entry for path, entry in others.items() if entry.facts.get("looks") and path not in train]
        pairs = [(entry, _alike(int(entry.facts["looks"], 16), bands)) for entry in others]
        pairs = [(entry, other) for entry, other in pairs if other]
        if len(pairs) > LARGEST * len(others) > 5:
            first, other = pairs[-1]
            yield first.found(
                "look-alike",
                f"{len(pairs)} of {counted(len(others), 'video')} look like one of training, such as "
                f"{first.sample.path} like {other.sample.path}: copies, or one camera that does not move",
            )._replace(line=None)
            continue
        for entry, other in reversed(pairs):
            if (split, entry.line) not in known:
                yield entry.found("look-alike", f"as line {other.line} of train, {other.sample.path}")


def _bands(bits: int) -> Iterator[tuple[int, int]]:
    for number in range(_BANDS):
        first, last = number * BITS // _BANDS, (number + 1) * BITS // _BANDS
        yield number, bits >> first & (1 << last - first) - 1


def _alike(bits: int, bands: Mapping[tuple[int, int], list[tuple[int, "Entry"]]]) -> "Entry | None":
    """The first training video that differs by at most ALIKE bits."""
    for band in _bands(bits):
        for other, entry in bands.get(band, ()):
            if (bits ^ other).bit_count() <= ALIKE:
                return entry
    return None
