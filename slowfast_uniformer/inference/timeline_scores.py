"""Timelines against annotated events: which events are of which video and class, and the scores to read."""

import math
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer.data.classes import ClassLookup
from slowfast_uniformer.data.event_files import Event, VideoFinder
from slowfast_uniformer.engine import segment_metrics
from slowfast_uniformer.engine.segment_metrics import Segment, VideoSegments
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.predict import VideoPrediction
from slowfast_uniformer.wording import counted

BACKGROUND = "background"  # the name of the class that stands for no event, unless another one is given


class Evaluation:
    """Scores timelines against annotated events.

    Args:
        videos: paths of the videos.
        events: annotated events, which may be of other videos, too.
        names: class names of the model in label order.
        background: name of the class that stands for no event; "" for "background" if the model has that.

    Attributes:
        names: as given.
        background: the class that stands for no event, or None.
        events: the annotated segments of each path.
        warnings: on what is left out.

    Raises:
        UserError: a class that the model does not have, a name that fits several videos, or no event of the videos.
    """

    def __init__(self, videos: Sequence[str], events: Sequence[Event], names: Sequence[str], background: str = ""):
        self.names, lookup = names, ClassLookup(names)
        self.background = _label(background or BACKGROUND, lookup)
        if background and self.background is None:
            raise UserError(f"--background {background}: the model has no such class; it has {_listed(names)}")
        finder = VideoFinder("the videos", videos)
        places = {name: finder.find(name) for name in dict.fromkeys(event.video for event in events)}
        self.events: dict[str, list[Segment]] = {path: [] for path in videos}
        for event in events:
            label, path = _label(event.label, lookup), places[event.video]
            if path is not None and label is not None:
                self.events[path].append(Segment(event.start, event.end, label))
            elif path is not None and event.label.casefold() != BACKGROUND:
                raise UserError(
                    f"annotations of {event.video}: the class {event.label!r} ({event.start:g} to {event.end:g} s) is "
                    f"none of the model's, which has {_listed(names)}. Correct or remove it"
                )
        annotated = {path for path in places.values() if path}
        if not annotated:
            raise UserError(
                f"the annotations have no event of the {counted(len(self.events), 'video')} given; they name "
                f"{_listed(list(places))}. Write paths or names of the files in them"
            )
        without = [path for path in videos if path not in annotated]
        remark = f"no event is annotated in {_listed(without)}: every event that is predicted there is wrong"
        self.warnings = [remark] if without else []
        self._scored: list[VideoSegments] = []

    def add(self, prediction: VideoPrediction) -> list[Segment]:
        """Add the timeline of a video; returns its annotated segments, cut off where the video ends."""
        row, seconds = prediction.row, prediction.spans[-1].end
        events = self.events[row["video"]]
        kept = [event._replace(end=min(event.end, seconds)) for event in events if event.start < seconds]
        for event in events:
            if event.start >= seconds:
                times, name = f"{event.start:g} to {event.end:g} s", self.names[event.label]
                beyond = f"left out: {name} from {times}, where {row['video']} has ended ({seconds:.6g} s)"
                self.warnings.append(beyond)
        predicted = [
            Segment(part["start"], part["end"], part["label"], part["probability"]) for part in row["timeline"]
        ]
        self._scored.append(VideoSegments(kept, predicted, round(seconds * prediction.fps), prediction.fps))
        return kept

    def scores(self) -> dict[str, Any]:
        """The scores (`segment_metrics.score`) of the videos that were added."""
        return segment_metrics.score(self._scored, self.background)


def _label(name: str, lookup: ClassLookup) -> int | None:
    label = lookup.get(name)
    if label is None and name.isdecimal() and int(name) < len(lookup.names):
        return int(name)
    return label


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def scores_text(scores: dict[str, Any], names: Sequence[str], background: int | None) -> str:
    """Scores (see `segment_metrics.score`) to read, without the table of classes."""
    events, predicted = counted(scores["events"], "event"), counted(scores["predicted"], "segment")
    lines = [
        f"{counted(scores['videos'], 'video')} with {events}; predicted: {predicted}"
        + ("" if background is None else f", background ({names[background]}) not counted")
    ]
    frames = counted(scores["frames"], "frame")
    frames += "" if background is not None else " of events (the model has no background class)"
    lines.append(f"frame-wise accuracy {percent(scores['frame_accuracy'])} of {frames}")
    f1 = ", ".join(f"{percent(value)} at {threshold:g}" for threshold, value in scores["segment_f1"].items())
    lines.append(f"segment F1 by IoU: {f1}")
    shown = ", ".join(f"{percent(scores['map'][threshold])} at {threshold:g}" for threshold in (0.5, 0.75, 0.95))
    lines.append(f"mAP by IoU: {shown}; mean of 0.5 to 0.95: {percent(scores['mean_map'])}")
    return "\n".join(lines)


def class_rows(scores: dict[str, Any], names: Sequence[str]) -> list[list[str]]:
    """The rows of a table of classes, with a head."""
    rows = [["class", "events", "predicted", "F1 at 0.5", "mean AP"]]
    for label, row in scores["classes"].items():
        figures = percent(row["segment_f1"]), percent(row["ap"])
        rows.append([names[label], str(row["events"]), str(row["predicted"]), *figures])
    return rows


def percent(value: float) -> str:
    """A score such as 83.3 %; – where there was nothing to count."""
    return "–" if math.isnan(value) else f"{value:.1f} %"


def scores_json(scores: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Scores as values of JSON: with class names, and null where there was nothing to count."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    classes = [{"class": names[label], "label": label} | plain(row) for label, row in scores["classes"].items()]
    return plain(scores) | {"classes": classes}
