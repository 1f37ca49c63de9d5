"""Splits that keep groups together (all videos of a person, a recording, a day) and classes balanced, and folds.

Imports neither PyTorch nor NumPy, as all of `uniformer lists`.
"""

import csv
import glob
import io
import os
import random
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import counted

FEW_VIDEOS, FEW_GROUPS = 200, 5  # of a collection for a single split; of a list for a score
_SHOWN = 5  # paths, groups and classes that a line or warnings name


class Item(NamedTuple):
    """A line of a list to be written.

    Attributes:
        path: The video, relative to the folder of videos.
        label: Name of its class.
        start: Of its segment, in seconds; None for the whole video.
        end: Of its segment.
        group: What must stay on one side of a split; "" for nothing but the video itself.
    """

    path: str
    label: str
    start: float | None = None
    end: float | None = None
    group: str = ""


Split = dict[str, list[Item]]  # of train, val and test


def assign(labels: Sequence[str], groups: Sequence[Hashable], shares: Sequence[float], seed: int = 0) -> list[int]:
    """Assign videos to sides so that no group is split and each class is divided as `shares` say, if that can be.

    The largest groups come first. Each goes where the squared errors of the class counts, relative to the counts that
    they should be, grow least. Where a class has enough videos, each side is to have one. No side stays empty.

    Args:
        labels: Class of each video.
        groups: Group of each video.
        shares: Of each side; they sum to 1.
        seed: Decides between groups of the same size.

    Returns:
        The side of each video.

    Raises:
        UserError: There are fewer groups than sides.
    """
    members: dict[Hashable, Counter] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        members[group][label] += 1
    if len(members) < len(shares):
        raise UserError(
            f"{counted(len(members), 'group')} of videos cannot fill {len(shares)} lists: a group stays in one list. "
            "Group them by something that differs more often (--group-by), or leave out a list (--val 0, --test "
            "0, fewer --folds)"
        )
    total = Counter(labels)
    wanted = {label: _wanted(count, shares) for label, count in total.items()}
    all_wanted = _wanted(len(labels), shares)
    order = sorted(members, key=str)
    random.Random(f"{seed} groups").shuffle(order)
    order.sort(key=lambda group: -members[group].total())
    have: list[Counter] = [Counter() for _ in shares]
    side_of: dict[Hashable, int] = {}
    for number, group in enumerate(order):
        empty = [side for side, counts in enumerate(have) if not counts]
        sides = empty if len(order) - number <= len(empty) else range(len(shares))

        def cost(side: int, group: Hashable = group) -> float:
            counts, more = have[side], members[group]
            size = _growth(counts.total(), more.total(), all_wanted[side])
            return size + sum(_growth(counts[label], more[label], wanted[label][side]) for label in more)

        best = min(sides, key=cost)
        side_of[group] = best
        have[best].update(members[group])
    return [side_of[group] for group in groups]


def _wanted(count: int, shares: Sequence[float]) -> list[float]:
    """How many videos of a class each side should have: at least one if there are enough."""
    wanted = [max(share * count, 1.0 if count >= len(shares) else 0.0) for share in shares]
    largest = max(range(len(shares)), key=shares.__getitem__)
    wanted[largest] = max(count - sum(wanted) + wanted[largest], 1e-9)
    return [max(each, 1e-9) for each in wanted]


def _growth(have: int, more: int, wanted: float) -> float:
    """By how much the squared error grows, relative to what is wanted."""
    return ((have + more - wanted) ** 2 - (have - wanted) ** 2) / wanted


def with_groups(items: Sequence[Item], pattern: str) -> list[Item]:
    """Items with the groups that a regular expression finds in their paths: what its parentheses hold, or all that it
    matches. The ending of the name is left out first, so that `$` finds what is before it.

    Raises:
        UserError: It is no regular expression, or a path does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        message = f"--group-by {pattern}: neither a column of the annotations nor a regular expression ({error})"
        raise UserError(message) from None
    found, unmatched = [], []
    for item in items:
        stem = os.path.splitext(item.path)[0]
        match = expression.search(stem) or expression.search(item.path)
        if not match or match.start() >= len(stem) > 0:  # the 4 of .mp4 is no group
            unmatched.append(item.path)
            continue
        found.append(item._replace(group=" ".join(filter(None, match.groups())) or match[0]))
    if unmatched:
        raise UserError(_no_match(pattern, list(dict.fromkeys(unmatched)), found[0] if found else None))
    return found


def _no_match(pattern: str, paths: Sequence[str], matched: Item | None) -> str:
    """The message on videos whose paths a --group-by does not match."""
    shown = ", ".join(paths[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
    remedy = "Correct the expression, or name a column of the annotations"
    if matched:
        names = paths if len(paths) <= _SHOWN else []
        options = " ".join(f"--exclude {shlex.quote(glob.escape(path))}" for path in names) or "--exclude PATTERN"
        remedy = f"Extend the expression, or leave these videos out: {options}"
    which = f"any of {counted(len(paths), 'video')}, such as {shown}"
    if matched:
        which = f"{shown} (in {matched.path} it found {matched.group!r})"
    return (
        f"--group-by {pattern}: does not match {which}. A group is what the expression finds in the path of every "
        f"video, such as 'person[0-9]+'. {remedy}"
    )


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path, relative to the folder of videos, or its last part is matched by one of --exclude's patterns, as
    a shell matches them, where * also stands for slashes."""
    return any(fnmatchcase(part, pattern) for pattern in patterns for part in (path, os.path.basename(path)))


def split_items(items: Sequence[Item], val: float, test: float, seed: int) -> Split:
    """Train, val and test by fractions. Without one for testing the val items are tested; with val 0 there is only
    train. UserError if there are too few groups."""
    if not (0 <= val and 0 <= test and val + test < 1):
        raise UserError(f"--val {val:g} --test {test:g}: each must be 0 or more, and their sum below 1")
    names = ["train", *["val"] * (val > 0), *["test"] * (test > 0)]
    shares = [1 - val - test, *filter(None, (val, test))]
    sides = assign([item.label for item in items], _groups(items), shares, seed)
    split = {name: [item for item, s in zip(items, sides, strict=True) if s == side] for side, name in enumerate(names)}
    return split | ({"test": split["val"]} if "test" not in split and "val" in split else {})


def make_folds(items: Sequence[Item], count: int, val: float, seed: int) -> list[Split]:
    """Folds of cross-validation: each item is in the test list of one of them. The val list is a part of the others,
    since a checkpoint that is chosen by it would not be tested honestly on the same videos.

    Raises:
        UserError: There are too few groups.
    """
    if count < 2:
        raise UserError(f"--folds {count}: must be 2 or more")
    sides = assign([item.label for item in items], _groups(items), [1 / count] * count, seed)
    folds = []
    for fold in range(count):
        rest = [item for item, side in zip(items, sides, strict=True) if side != fold]
        split = split_items(rest, val, 0.0, seed) if val else {"train": rest}
        folds.append(split | {"test": [item for item, side in zip(items, sides, strict=True) if side == fold]})
    return folds


def _groups(items: Sequence[Item]) -> list[Hashable]:
    """The group of each item; without one its video, or the item where all are of one video."""
    found: list[Hashable] = [("group", item.group) if item.group else item.path for item in items]
    return list(range(len(items))) if len({item.path for item in items}) == 1 else found


def split_notes(split: Split, given: bool) -> tuple[list[str], list[str]]:
    """What is to be known of a split before a training: notes, and warnings.

    Args:
        split: One that is to be used as it is, not a fold.
        given: Whether it is the data set's own, which is not to be made anew.
    """
    notes, warnings = [], []
    if set(split) == {"train"}:
        return notes, warnings
    items = [item for name, part in split.items() if name != "test" or part != split.get("val") for item in part]
    groups = {name: {item.group for item in part if item.group} for name, part in split.items()}
    if any(groups.values()):
        sizes = Counter(item.group for item in items if item.group).most_common()
        largest = ", ".join(f"{group} ({counted(size, 'video')})" for group, size in sizes[:_SHOWN])
        in_lists = ", ".join(f"{name} {len(found)}" for name, found in groups.items())
        notes.append(f"{counted(len(sizes), 'group')} ({in_lists}); the largest: {largest}")
    elif not given:
        notes.append("videos of one person or recording may be on both sides; --group-by keeps them together")
    count = len(set(_groups(items)))
    folds = "" if given or count < 3 else f"--folds {min(5, count)} tests each video once"
    for name in [name for name in ("val", "test") if 0 < len(groups.get(name, ())) < FEW_GROUPS]:
        if name == "val" or split[name] != split.get("val"):
            remedy = f"; {folds}" if folds else ""
            warnings.append(
                f"{name} has only {counted(len(groups[name]), 'group')}: with other groups its scores may be quite "
                f"different{remedy}"
            )
    if split.get("val") and split.get("test") == split["val"]:
        other = "" if given else "; --test 0.2 keeps others for the test"
        notes.append(f"test has the same videos as val: what is chosen by val is then tested on the same videos{other}")
    if folds and len(items) < FEW_VIDEOS and not warnings:
        notes.append(f"{counted(len(items), 'video')} are few for a single split, whose scores vary by chance; {folds}")
    return notes, warnings


def few_of(items: Sequence[Item], folds: int) -> list[str]:
    """Warnings on classes that have fewer videos, or groups, than there are folds."""
    lines, sizes = [], Counter(item.label for item in items)
    groups: dict[str, set[Hashable]] = defaultdict(set)
    for item, group in zip(items, _groups(items), strict=True):
        groups[item.label].add(group)
    for label in sorted(sizes):
        count = len(groups[label])
        if count < folds:
            of = f" of {counted(count, 'group')}" if count < sizes[label] else ""
            lines.append(f"{label}: only {counted(sizes[label], 'video')}{of}, fewer than {folds} folds")
    more = counted(len(lines) - _SHOWN, "more class")
    return [*lines[:_SHOWN], f"{more} with fewer videos than folds"] if len(lines) > _SHOWN else lines


def list_text(items: Sequence[Item], labels: Mapping[str, int], separator: str = " ") -> str:
    """The text of a list; with a header line where there are segments or groups."""
    segments, groups = any(item.start is not None for item in items), any(item.group for item in items)
    if not segments and not groups:
        return "".join(f"{item.path}{separator}{labels[item.label]}\n" for item in items)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="," if separator == " " else separator, lineterminator="\n")
    columns = ["path", *(["start", "end"] * segments)[:2], "label", *["group"] * groups]
    writer.writerow(columns)
    for item in items:
        fields = {"path": item.path, "label": labels[item.label], "group": item.group}
        for name, time in (("start", item.start), ("end", item.end)):
            fields[name] = "" if time is None else f"{time:.15g}"
        writer.writerow([fields[column] for column in columns])
    return text.getvalue()
