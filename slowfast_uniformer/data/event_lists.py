"""Items of lists from annotations of events in long videos, with segments of background between them."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from slowfast_uniformer.data import folders
from slowfast_uniformer.data.classes import read_class_names
from slowfast_uniformer.data.event_files import Event, VideoFinder, column_name, read_events
from slowfast_uniformer.data.make_lists import LeftOut
from slowfast_uniformer.data.splits import Item
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import counted

BACKGROUND = "background"
MOST_NUMBERS = 10_000  # classes that numbers can stand for
SHORTEST = 0.5  # seconds, of a segment of background
Segment = tuple[float, float]


class Found(NamedTuple):
    """What annotations say.

    Attributes:
        names: Class names in label order.
        items: The events, and the background, in the order of the annotations.
        subsets: train, val or test of each item, or "" where the annotations give no split.
        warnings: On what is left out.
    """

    names: list[str]
    items: list[Item]
    subsets: list[str]
    warnings: list[str]


def find_events(
    root: Path,
    files: Sequence[str],
    tiers: Sequence[str] = (),
    group_by: str = "",
    background: float = 0.0,
    seed: int = 0,
) -> Found:
    """The events of annotation files, in the videos of a folder.

    Args:
        root: The folder of the videos.
        files: Annotation files (see `event_files.read_events`).
        tiers: ELAN's tiers to read.
        group_by: A column of the annotations, whose value is the group of an item; any other text is left alone.
        background: Seconds of background for each second of events; 0 for none.
        seed: Of the places of background.

    Raises:
        UserError: There is no such folder, a file is at fault, or no annotated video is in the folder.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of the videos")
    if background < 0:
        raise UserError(f"--background {background:g}: must be 0 or more (seconds for each second of events)")
    left_out = LeftOut()
    events = [event for file in files for event in read_events(file, left_out.add, tiers, whole_videos=True)]
    if not events:
        raise UserError("; ".join([f"{files[0]}: no event with a start, an end and a label", *left_out.warnings()]))
    places = _places(root, {event.video for event in events}, left_out)
    known = [event for event in events if places[event.video]]
    if not known:
        raise UserError(
            f"{root}: none of {counted(len(places), 'annotated video')} is in this folder; the first is "
            f"{events[0].video}. Give the folder that holds them"
        )
    _one_label_each(known, places)
    column = column_name(group_by)
    items = [_item(event, places[event.video], column) for event in known]
    subsets = [event.subset for event in known]
    labels = sorted({item.label for item in items})
    names, name_of = _class_names(root, labels)
    items = [item._replace(label=name_of.get(item.label, item.label)) for item in items]
    if background:
        if whole := next((item for item in items if item.start is None), None):
            raise UserError(f"--background: {whole.path} has no start and end, so there is nothing between events")
        if BACKGROUND in labels:
            raise UserError(f"--background: the annotations have a class {BACKGROUND} themselves; leave the option out")
        for item, near in _background(root, items, background, seed, left_out):
            items.append(item)
            subsets.append(subsets[near])
        names = names if BACKGROUND in names else [*names, BACKGROUND]
    return Found(names, items, subsets, left_out.warnings())


def _one_label_each(events: Sequence[Event], places: Mapping[str, str | None]) -> None:
    """Refuse whole videos with several labels: then columns of start and end have names that are not known."""
    labels: dict[str, str] = {}
    for event in events:
        place = places[event.video]
        if event.start is None and place and labels.setdefault(place, event.label) != event.label:
            raise UserError(
                f"{event.video} has the labels {labels[place]} and {event.label}, and the table has no times; name its "
                "columns of seconds start and end, or give each video one label"
            )


def _item(event: Event, path: str, column: str) -> Item:
    return Item(path, event.label, event.start, event.end, event.columns.get(column, "") if column else "")


def _places(root: Path, videos: set[str], left_out: LeftOut) -> dict[str, str | None]:
    """Where in the folder the annotated videos are."""
    paths = []
    for parent, names in folders.walk(str(root)):
        relative = Path(parent).relative_to(root)
        paths += [(relative / name).as_posix() for name in names if folders.ending_of(name) in folders.VIDEO_ENDINGS]
        if folders.has_images(names):
            paths.append(relative.as_posix())
    finder = VideoFinder(str(root), paths)
    places = {video: finder.find(video) for video in sorted(videos)}
    for video, place in places.items():
        if place is None:
            left_out.add("annotated videos that are not there", video)
    return places


def _class_names(root: Path, labels: list[str]) -> tuple[list[str], dict[str, str]]:
    """The classes in label order: that of classes.txt in the folder if there is one, or else of the alphabet; and the
    names of labels that are numbers."""
    file = root / "classes.txt"
    given = read_class_names(str(file)) if file.is_file() else []
    if set(labels) <= set(given):
        return given, {}
    if all(label.isdecimal() for label in labels) and (highest := max(map(int, labels))) < MOST_NUMBERS:
        names = given if highest < len(given) else [str(number) for number in range(highest + 1)]
        return names, {label: names[int(label)] for label in labels}
    if given:
        missing = next(label for label in labels if label not in given)
        raise UserError(f"{file}: has no class {missing!r}, which the annotations have; add it, or remove the file")
    return labels, {}


# -------------------------------------------------------------------------------------------------------- background
def _background(
    root: Path, items: Sequence[Item], ratio: float, seed: int, left_out: LeftOut
) -> list[tuple[Item, int]]:
    """Segments of background of each video, with the number of the event before each."""
    by_video: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        by_video[item.path].append(number)
    found = []
    for path, numbers in by_video.items():
        if (seconds := _seconds(root / path)) is None:
            left_out.add("no background of videos that cannot be read", path)
            continue
        numbers.sort(key=lambda number: items[number].start)
        events = [(items[number].start, items[number].end) for number in numbers]
        for start, end in background_segments(events, seconds, ratio, random.Random(f"{seed} {path}").uniform):
            near = next((number for number in reversed(numbers) if items[number].start <= start), numbers[0])
            found.append((Item(path, BACKGROUND, start, end, items[near].group), near))
    return found


def _seconds(path: Path) -> float | None:
    """The length of a video."""
    from slowfast_uniformer.data.input_lists import path_sample
    from slowfast_uniformer.data.open_video import open_sample
    from slowfast_uniformer.data.video import VideoError

    try:
        with open_sample(path_sample(str(path), "{:05d}.jpg"), "{:05d}.jpg") as video:
            return video.duration(video.times())
    except VideoError:
        return None


def background_segments(
    events: Sequence[Segment], seconds: float, ratio: float, uniform: Callable[[float, float], float]
) -> list[Segment]:
    """Segments between events, `ratio` times as long in all, or as long as there is room; none overlaps an event or
    another one. They have the lengths of the events, in turn, or of the room that is left.

    Args:
        events: Of a video, in order of their starts.
        seconds: Length of the video.
        ratio: Seconds of background for each second of events.
        uniform: Draws a number between two.
    """
    gaps, at = [], 0.0
    for start, end in [*events, (seconds, seconds)]:
        if min(start, seconds) - at >= SHORTEST:
            gaps.append((at, min(start, seconds)))
        at = max(at, end)
    covered, reached = 0.0, 0.0  # events may overlap each other
    for start, end in events:
        covered += max(0.0, min(end, seconds) - max(start, reached))
        reached = max(reached, min(end, seconds))
    left, found = ratio * covered, []
    lengths = [max(SHORTEST, end - start) for start, end in events]
    while gaps and left >= min(SHORTEST, ratio * covered):
        length = min(lengths[len(found) % len(lengths)], left)
        fitting = [gap for gap in gaps if gap[1] - gap[0] >= length]
        if not fitting:
            fitting = [max(gaps, key=lambda gap: gap[1] - gap[0])]
            length = fitting[0][1] - fitting[0][0]
        place = uniform(0.0, sum(end - start - length for start, end in fitting))
        for gap in fitting:
            free = gap[1] - gap[0] - length
            if place <= free or gap is fitting[-1]:
                break
            place -= free
        start = _up(gap[0] + min(place, free))
        end = _down(min(start + length, gap[1]))
        if start >= end:
            break
        gaps.remove(gap)
        gaps += [rest for rest in ((gap[0], start), (end, gap[1])) if rest[1] - rest[0] >= SHORTEST]
        found.append((start, end))
        left -= end - start
    return sorted(found)


def _up(seconds: float) -> float:
    """To whole milliseconds, which a list shows, and never into what is before."""
    return -int(-seconds * 1000 // 1) / 1000


def _down(seconds: float) -> float:
    return int(seconds * 1000 // 1) / 1000
