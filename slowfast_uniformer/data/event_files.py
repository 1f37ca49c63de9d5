"""Annotations of events in videos, as programs write them: tables, BORIS, ELAN, and JSON as ActivityNet has it.

Formats: BORIS's user guide, "Export events" (aggregated, and tabular with START and STOP); ELAN's "EAF annotation
format" (times in ms; a reference annotation has the times of what it refers to); ActivityNet 1.3 (Heilbron et al.).
Imports neither PyTorch nor NumPy.
"""

import csv
import io
import json
import math
import re
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from slowfast_uniformer.data.list_numbers import parse_time, read_segment
from slowfast_uniformer.data.list_reader import HEADER_NAMES
from slowfast_uniformer.data.list_text import SPACES, read_text
from slowfast_uniformer.errors import UserError

SUBSETS = {"training": "train", "train": "train", "validation": "val", "val": "val", "testing": "test", "test": "test"}
_HEADER_LINES = 200  # among which a table's header is; BORIS writes facts of the observation before it
_NAMES = {
    "video": ["media_file_name", "media_file", "media_file_path", *HEADER_NAMES["path"], "video_id"],
    "label": ["behavior", "behaviour", *HEADER_NAMES["label"], "event", "annotation"],
    "start": ["start_s", "start_seconds", "start_sec", *HEADER_NAMES["start"], "onset"],
    "end": ["stop_s", "stop_seconds", "end_s", "end_seconds", "end_sec", *HEADER_NAMES["end"], "offset"],
}
LeaveOut = Callable[[str, str], None]  # called with a reason and a place


class Event(NamedTuple):
    """An event in a video.

    Attributes:
        video: As the annotation names it: a path on any machine, or an id.
        start: Seconds; None for a whole video.
        end: Seconds; None for a whole video.
        label: Name of its class.
        columns: What else the annotation says, by the names of its columns in lower case.
        subset: train, val or test where the annotation gives a split, else "".
    """

    video: str
    start: float | None
    end: float | None
    label: str
    columns: Mapping[str, str]
    subset: str = ""


def read_events(path: str, leave_out: LeaveOut, tiers: Sequence[str] = (), whole_videos: bool = False) -> list[Event]:
    """The events of an annotation file.

    Args:
        path: .eaf of ELAN, .json as of ActivityNet, or a table (.csv, .tsv) with a header line, also of BORIS.
        leave_out: Called for each annotation that is no event with a length.
        tiers: ELAN's tiers to read; needed where several have annotations.
        whole_videos: Whether a table without columns of start and end is read, as labels of whole videos.

    Raises:
        UserError: The file cannot be read or understood; names the line at fault.
    """
    text, ending = read_text(path, "annotation file"), Path(path).suffix.lower()
    if ending == ".eaf":
        return list(_elan(path, text, leave_out, tiers))
    if tiers:
        raise UserError(f"--tier is for ELAN's .eaf files, and {path} is not one; leave the option out")
    return list(
        _activitynet(path, text, leave_out) if ending == ".json" else _table(path, text, leave_out, whole_videos)
    )


# ------------------------------------------------------------------------------------------------------------ tables
def _table(path: str, text: str, leave_out: LeaveOut, whole_videos: bool) -> Iterator[Event]:
    delimiter = max("\t;,", key=text[:10000].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, [field.strip(SPACES) for field in line]) for line in reader if any(line)]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: not a table that can be read ({error}); check its quotes"
        ) from None
    for at, (_, head) in enumerate(rows[:_HEADER_LINES]):
        names = [column_name(name) for name in head]
        found = {what: next((name for name in known if name in names), "") for what, known in _NAMES.items()}
        if "behavior" in names and "time" in names and {"status", "behavior_type"} & {*names}:
            status = "status" if "status" in names else "behavior_type"
            yield from _boris_tabular(path, names, found["video"], status, rows[at + 1 :], leave_out)
            return
        whole = whole_videos and not (found["start"] or found["end"])
        if found["video"] and found["label"] and (whole or found["start"] and found["end"]):
            yield from _rows(path, names, found, rows[at + 1 :], leave_out)
            return
    number, head = rows[0] if rows else (1, [])
    raise UserError(
        f"{path}, line {number}: the first line must name the columns video, start, end and label"
        f"{' (start and end may both be missing)' if whole_videos else ''}; found {delimiter.join(head)[:200]!r}"
    )


def column_name(name: str) -> str:
    """The name of a column in lower case, with underscores: start_s of "Start (s)"."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _fields(path: str, names: Sequence[str], number: int, row: Sequence[str]) -> dict[str, str]:
    if len(row) < len(names):
        raise UserError(f"{path}, line {number}: {len(row)} fields, and the header line has {len(names)}")
    return dict(zip(names, row, strict=False))


def _rows(
    path: str, names: Sequence[str], found: Mapping[str, str], rows: Sequence[tuple], leave_out: LeaveOut
) -> Iterator[Event]:
    """Of a table with an event in each line; BORIS's aggregated events are such."""
    for number, row in rows:
        fields, where = _fields(path, names, number, row), f"{path}, line {number}"
        if fields.get("behavior_type", "").upper() == "POINT":
            leave_out("point events, which have no length", where)
            continue
        video, label = fields[found["video"]], fields[found["label"]]
        if not video or not label:
            raise UserError(f"{where}: the line has no {'label' if video else 'video'}; correct or remove it")
        if not found["start"]:
            yield Event(video, None, None, label, fields)
            continue
        segment = read_segment(fields[found["start"]], fields[found["end"]], where)
        if segment is None:
            raise UserError(f"{where}: the line has neither start nor end; correct or remove it")
        yield Event(video, *segment[:2], label, fields)


def _boris_tabular(
    path: str, names: Sequence[str], video: str, status: str, rows: Sequence[tuple], leave_out: LeaveOut
) -> Iterator[Event]:
    """BORIS's events with a line for START and one for STOP, of each subject and behavior."""
    if not video:
        raise UserError(f"{path}: a table of BORIS without a column of media files; export the aggregated events")
    begun: dict[tuple[str, ...], tuple[float, str]] = {}
    for number, row in rows:
        fields, where = _fields(path, names, number, row), f"{path}, line {number}"
        state, time = fields[status].upper(), parse_time(fields["time"], "time", where)
        key = (fields.get("observation_id", ""), fields[video], fields.get("subject", ""), fields["behavior"])
        if state == "POINT":
            leave_out("point events, which have no length", where)
        elif state == "START" and key not in begun:
            begun[key] = (time, where)
        elif state == "STOP" and key in begun:
            start, first = begun.pop(key)
            if start < time:
                yield Event(fields[video], start, time, fields["behavior"], fields)
            else:
                leave_out("states that end when they begin", first)
        else:
            what = f"{state} of {fields['behavior']!r}" if state in ("START", "STOP") else f"the status {state!r}"
            raise UserError(f"{where}: {what} does not follow from the lines before; correct the events in BORIS")
    if begun:
        (*_, behavior), (_, where) = next(iter(begun.items()))
        raise UserError(f"{where}: {behavior!r} starts here and never stops")


# -------------------------------------------------------------------------------------------------------------- ELAN
def _elan(path: str, text: str, leave_out: LeaveOut, tiers: Sequence[str]) -> Iterator[Event]:
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise UserError(
            f"{path}, line {error.position[0]}: not XML as ELAN writes it ({error}); export the file anew"
        ) from None
    slots = {s.get("TIME_SLOT_ID"): s.get("TIME_VALUE") for s in root.iter("TIME_SLOT")}
    media, offset = _elan_media(path, root)
    spans: dict[str, tuple[str | None, str | None] | str] = {}  # two time slots, or the annotation that has them
    for each in root.iter("ALIGNABLE_ANNOTATION"):
        spans[each.get("ANNOTATION_ID")] = each.get("TIME_SLOT_REF1"), each.get("TIME_SLOT_REF2")
    for each in root.iter("REF_ANNOTATION"):
        spans[each.get("ANNOTATION_ID")] = each.get("ANNOTATION_REF")
    for tier in _elan_tiers(path, root, tiers):
        name = tier.get("TIER_ID", "")
        columns = {"tier": name, "participant": tier.get("PARTICIPANT", ""), "annotator": tier.get("ANNOTATOR", "")}
        for each in (annotation for holder in tier.iter("ANNOTATION") for annotation in holder):
            where, span = f"{path}, {each.get('ANNOTATION_ID')} of tier {name}", spans.get(each.get("ANNOTATION_ID"))
            seen = {each.get("ANNOTATION_ID")}
            while isinstance(span, str) and span not in seen:  # of the annotation that it refers to
                seen.add(span)
                span = spans.get(span)
            value = (each.findtext("ANNOTATION_VALUE") or "").strip(SPACES)
            times = [slots.get(slot) for slot in span] if isinstance(span, tuple) else [None]
            if not value or None in times:
                leave_out(f"annotations without {'times of their own' if value else 'a value'}", where)
                continue
            start, end = ((int(time) + offset) / 1000 for time in times)
            if not 0 <= start < end:
                raise UserError(f"{where}: it begins at {start:g} s and ends at {end:g} s; correct it in ELAN")
            yield Event(media, start, end, value, columns)


def _elan_media(path: str, root: ElementTree.Element) -> tuple[str, int]:
    """The video, and at which of its milliseconds ELAN's time begins."""
    found = list(root.iter("MEDIA_DESCRIPTOR"))
    videos = [each for each in found if each.get("MIME_TYPE", "").startswith("video")]
    each = next(iter(videos or found), None)
    if each is None:
        return Path(path).stem, 0
    url = each.get("RELATIVE_MEDIA_URL") or each.get("MEDIA_URL") or Path(path).stem
    return urllib.parse.unquote(url.removeprefix("file://")), int(each.get("TIME_ORIGIN") or 0)


def _elan_tiers(path: str, root: ElementTree.Element, wanted: Sequence[str]) -> list[ElementTree.Element]:
    tiers = {tier.get("TIER_ID", ""): tier for tier in root.iter("TIER")}
    filled = [name for name, tier in tiers.items() if tier.find("ANNOTATION") is not None]
    names = ", ".join(filled) or "none"
    if missing := [name for name in wanted if name not in tiers]:
        raise UserError(f"{path}: there is no tier {missing[0]!r}; tiers with annotations: {names}")
    if not wanted and len(filled) > 1:
        raise UserError(f"{path}: several tiers have annotations ({names}); name one or more with --tier")
    return [tiers[name] for name in wanted or filled]


# -------------------------------------------------------------------------------------------------------------- JSON
def _activitynet(path: str, text: str, leave_out: LeaveOut) -> Iterator[Event]:
    try:
        content = json.loads(text)
        database = content.get("database", content)
        videos = [(str(name), entry, entry.get("annotations", [])) for name, entry in database.items()]
    except (ValueError, AttributeError) as error:
        cause = f" ({error})" if isinstance(error, ValueError) else ""
        raise UserError(
            f"{path}: not JSON as ActivityNet's, an object of videos with the annotations of each{cause}"
        ) from None
    for name, entry, annotations in videos:
        subset = SUBSETS.get(str(entry.get("subset", "")).lower(), "")
        columns = {key.lower(): str(value) for key, value in entry.items() if not isinstance(value, list | dict)}
        for number, annotation in enumerate(annotations, 1):
            where = f"{path}, annotation {number} of {name}"
            try:
                (start, end), label = map(float, annotation["segment"]), str(annotation["label"]).strip(SPACES)
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{where}: neither a segment [start, end] nor a label ({error!r})") from None
            if not (0 <= start < end < math.inf and label):
                leave_out("annotations that end before they begin, or without a label", where)
                continue
            yield Event(name, start, end, label, columns, subset)


# ------------------------------------------------------------------------------------------------------------ videos
class VideoFinder:
    """Finds the videos that annotations name in a folder: by the relative path, the file's name, or its name without
    the ending. Ids of ActivityNet stand for files with v_ before them, too.

    Args:
        root: The folder.
        videos: Paths of its videos, relative to it.
    """

    def __init__(self, root: str, videos: Sequence[str]):
        self.root, self._known = root, set(videos)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for video in videos:
            path = Path(video)
            for name in {path.name, path.stem}:
                self._by_name[name].append(video)

    def find(self, name: str) -> str | None:
        """The path in the folder; None if there is no such video. UserError if there are several."""
        path = re.sub(r"^(\./)+", "", name.replace("\\", "/"))
        if path in self._known:
            return path
        last = path.rpartition("/")[2]
        for key in (last, Path(last).stem, f"v_{last}"):
            found = self._by_name.get(key, [])
            parts = path.split("/")[::-1]
            # of several, the one whose folders agree best with the path
            agree = Counter({video: _common(video.split("/")[::-1], parts) for video in found}).most_common(2)
            if len(agree) == 1 or (len(agree) == 2 and agree[0][1] > agree[1][1]):
                return agree[0][0]
            if agree:
                raise UserError(
                    f"{self.root}: {name} can be {agree[0][0]} or {agree[1][0]}; write paths relative to this folder"
                )
        return None


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts from the beginning on are equal."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
