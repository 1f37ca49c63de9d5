"""Predictions for videos: one class for each, and for long videos a timeline."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.video import VideoSource
from slowfast_uniformer.engine.segment_metrics import Segment
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.outputs import atomic_output
from slowfast_uniformer.inference.predictor import Predictor, Span, fps_of
from slowfast_uniformer.inference.timeline import smoothed, span_labels
from slowfast_uniformer.runs.fonts import drawable, set_literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#3b6fb6", "#d9822b", "#1a7f37", "#8250df", "#c62828", "#0e7490")
GREY, LIGHT, TEXT, EMPTY = "#8c959f", "#c3cad2", "#24292f", "#f3f5f7"
CURVE_STEPS = 150  # of a drawn timeline; more cannot be told apart
TICKS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds between ticks


class VideoPrediction(NamedTuple):
    """The prediction for one video.

    Attributes:
        row: what is printed: see `Predictor.result`, with `start` and `end` where segments are classified; for a long
            video with `timeline` (see `segments`), for one that cannot be read without a class and with `error`.
        probabilities: (K,), or None for a video that cannot be read.
        spans: the timeline of a long video, else empty.
        fps: frames per second of a long video, else 0.
    """

    row: dict[str, Any]
    probabilities: Tensor | None
    spans: list[Span]
    fps: float = 0.0


def predict(
    model: Predictor,
    samples: list[Sample],
    topk: int = 5,
    longer_than: float = 30.0,
    workers: int = 0,
    smooth: float = 0.0,
    smooth_by: str = "mean",
    min_length: float = 0.0,
    **windows: Any,
) -> Iterator[VideoPrediction]:
    """Classify videos one after another.

    A video is opened when its turn comes, and once: its length decides how it is classified. With DataLoader workers,
    which open videos ahead, a long one is opened once more in this process.

    Args:
        model: a loaded model.
        samples: the videos; a segment in seconds is classified from views inside it.
        topk: classes in each prediction.
        longer_than: seconds. Longer videos are classified by sliding windows (see `Predictor.timeline`), others from
            their views as in testing.
        workers: DataLoader workers.
        smooth, smooth_by: seconds over which probabilities of a timeline are averaged, and how (`timeline.smoothed`).
        min_length: of the segments of a timeline, in seconds (`timeline.span_labels`).
        windows: `window` and `step` of `Predictor.timeline`.

    Yields:
        A prediction for each video, in order. A video that cannot be read gives an `error`.
    """
    with_times = any(sample.segment for sample in samples)
    for sample, found in zip(samples, model.clips(samples, workers, longer_than), strict=True):
        times = dict(zip(("start", "end"), sample.segment or (None, None), strict=True)) if with_times else {}
        try:
            if isinstance(found, UserError):
                raise found
            if isinstance(found, Tensor):
                probabilities, timeline, fps = model.probabilities(model.logits(found)), [], 0.0
            else:
                with found or model.open(sample) as video:
                    timeline, fps = smoothed(model.open_timeline(video, **windows), smooth, smooth_by), fps_of(video)
                seconds = torch.tensor([span.end - span.start for span in timeline], dtype=torch.float64)
                probabilities = torch.stack([span.probabilities for span in timeline]).T @ (seconds / seconds.sum())
        except UserError as error:
            nothing = {"class": None, "label": None, "probability": None, "topk": []}
            yield VideoPrediction({"video": sample.path, **times, **nothing, "error": str(error)}, None, [])
            continue
        row = {"video": sample.path, **times} | model.result(sample.path, probabilities, topk)
        if timeline:
            row["timeline"] = segments(timeline, model.names, min_length)
        yield VideoPrediction(row, probabilities, timeline, fps)


def segments(spans: Sequence[Span], names: Sequence[str], min_length: float = 0.0) -> list[dict[str, Any]]:
    """Join adjacent spans with the same most probable class, and segments shorter than `min_length` with others.

    Returns:
        A dict for each segment: `start` and `end` (seconds), `class`, `label` and its mean `probability`.
    """
    found = []
    labelled = zip(span_labels(spans, min_length), spans, strict=True)
    for label, group in groupby(labelled, key=itemgetter(0)):
        joined = [span for _, span in group]
        start, end = round(joined[0].start, 3), round(joined[-1].end, 3)
        total = sum(float(span.probabilities[label]) * (span.end - span.start) for span in joined)
        probability = round(total / max(end - start, 1e-9), 6)
        found.append({"start": start, "end": end, "class": names[label], "label": label, "probability": probability})
    return found


def write_overlay(model: Predictor, sample: Sample, prediction: VideoPrediction, path: str) -> None:
    """Write the video, or its segment, with its most probable classes as a caption; of a long video those of each
    moment.

    Raises:
        UserError: the video cannot be read, or the file cannot be written.
    """
    spans = prediction.spans or [Span(0.0, np.inf, prediction.probabilities)]

    def captioned(video: VideoSource, fps: float) -> Iterator[np.ndarray]:
        current, shown = 0, range(video.frames)
        if sample.segment:
            shown = video.segment(*sample.segment, model.cfg.DATA.FOLDER_FPS)
        for number, frame in video_writer.numbered_frames(video, shown[0], shown[-1]):
            while current + 1 < len(spans) and number / fps >= spans[current].end:
                current += 1
            best = spans[current].probabilities.topk(min(3, len(model.names)))
            names = [model.names[label] for label in best.indices.tolist()]
            yield video_writer.caption(frame, list(zip(names, best.values.tolist(), strict=True)))

    with model.open(sample) as video:
        video_writer.write_video(path, captioned(video, fps_of(video)), fps_of(video))


def main_classes(parts: Iterable[dict[str, Any]]) -> tuple[Counter[int], dict[int, str]]:
    """Seconds of each label in segments, and a color for each of the labels with the most seconds."""
    seconds: Counter[int] = Counter()
    for part in parts:
        seconds[part["label"]] += part["end"] - part["start"]
    return seconds, dict(zip((label for label, _ in seconds.most_common()), COLORS, strict=False))


def draw_timeline(
    spans: Sequence[Span],
    names: Sequence[str],
    path: str,
    title: str = "",
    parts: Sequence[dict[str, Any]] | None = None,
    events: Sequence[Segment] | None = None,
    background: int | None = None,
) -> None:
    """Write a picture (PNG) of a timeline: the most probable class, and the probabilities of the six main classes.

    Args:
        spans: the timeline.
        names: class names in label order.
        path: the file.
        title: above the picture.
        parts: its segments; None for those that `segments` finds.
        events: annotated ones, to be drawn above it; None for no such row.
        background: the class that stands for no event, which is light grey; or None.
    """
    from matplotlib.figure import Figure

    parts = segments(spans, names) if parts is None else parts
    annotated = [{"start": event.start, "end": event.end, "label": event.label} for event in events or ()]
    _, colors = main_classes(part for part in (*annotated, *parts) if part["label"] != background)
    colors |= {background: LIGHT} if background is not None else {}
    rows = ((annotated, "annotated"), (parts, "predicted")) if events is not None else ((parts, ""),)
    figure = Figure((11, 3.7 + 0.5 * len(rows)), dpi=110, layout="constrained", facecolor="white")
    *strips, curves = figure.subplots(len(rows) + 1, 1, sharex=True, height_ratios=[*(1 for _ in rows), 4])
    for strip, (drawn, name) in zip(strips, rows, strict=True):
        _draw_strip(strip, drawn, colors)
        strip.set_ylabel(name, rotation=0, ha="right", va="center", color=TEXT)
    _draw_curves(curves, spans, colors)
    strips[0].set_xlim(0, spans[-1].end)
    strips[0].set_title(drawable(title), loc="left", color=TEXT, fontsize=11)
    for axes in (*strips, curves):
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=TEXT, length=0)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=TEXT)
    for text, label in zip(legend.get_texts(), colors, strict=True):  # not as labels: those with a leading _ are hidden
        name = drawable(names[label])
        text.set_text(name if len(name) <= 32 else name[:31] + "…")
    set_literal(figure)
    with atomic_output(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_curves(axes: "Axes", spans: Sequence[Span], colors: dict[int, str]) -> None:
    """Draw the probabilities of the classes that have colors over time."""
    from matplotlib.ticker import MultipleLocator

    edges, values = _resampled(spans)
    for label, color in colors.items():
        axes.stairs(values[label], edges, color=color, linewidth=1.6, label=str(label), baseline=None)
    axes.set(ylim=(0, 1.03), ylabel="probability")
    axes.set_xlabel("time (minutes:seconds)", color=TEXT)
    axes.xaxis.set_major_locator(MultipleLocator(next((s for s in TICKS if 9 * s >= edges[-1]), edges[-1])))
    axes.xaxis.set_major_formatter(lambda value, _: clock(value))
    axes.tick_params(pad=6)
    axes.grid(axis="y", color="#d0d7de", linewidth=0.6)


def _draw_strip(axes: "Axes", parts: Sequence[dict[str, Any]], colors: dict[int, str]) -> None:
    """Draw segments as bars, those that overlap others in lanes below each other."""
    lanes: list[float] = []  # where the last bar of each ends
    rows = []
    for part in sorted(parts, key=lambda part: part["start"]):
        free = (lane for lane, end in enumerate(lanes) if end <= part["start"] + 1e-6)
        if (lane := next(free, len(lanes))) == len(lanes):
            lanes.append(0.0)
        lanes[lane] = part["end"]
        rows.append((lane, part))
    height = 1 / max(1, len(lanes))
    for lane, part in rows:
        span, color = (part["start"], part["end"] - part["start"]), colors.get(part["label"], GREY)
        axes.broken_barh([span], (1 - (lane + 1) * height, height), facecolors=color, edgecolor="white", linewidth=0.8)
    axes.set(ylim=(0, 1), yticks=[], facecolor=EMPTY)


def _resampled(spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Edges (N+1,) and mean probabilities (K, N) of the spans, or of CURVE_STEPS equal ones if there are more."""
    edges = np.array([span.start for span in spans] + [spans[-1].end])
    values = torch.stack([span.probabilities for span in spans], 1).double().numpy()
    if len(spans) <= CURVE_STEPS:
        return edges, values
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values * np.diff(edges), 1)], 1)
    even = np.linspace(0, edges[-1], CURVE_STEPS + 1)
    return even, np.stack([np.diff(np.interp(even, edges, row)) / np.diff(even) for row in sums])


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 1:02.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}" if rest % 1 else f"{minutes:.0f}:{rest:02.0f}"


def as_text(row: dict[str, Any]) -> str:
    """A prediction as lines to read."""
    times = f" {clock(row['start'])} to {clock(row['end'])}" if row.get("start") is not None else ""
    lines = [row["video"] + times]
    lines += [f"  {each['probability']:>6.1%}  {each['class']}" for each in row["topk"]]
    for part in row.get("timeline", ()):
        times = f"{clock(part['start'])} to {clock(part['end'])}"
        lines.append(f"  {times:>18}  {part['class']} ({part['probability']:.1%})")
    return "\n".join(lines)


def as_csv(row: dict[str, Any], topk: int) -> list[Any]:
    """A prediction as the fields that `csv_head` names."""
    top = [(each["class"], each["probability"]) for each in row["topk"]]
    top += [("", "")] * (topk - len(top))
    times = [row[name] for name in ("start", "end") if name in row]
    return [row["video"], *times, row["class"], row["label"], row["probability"], *sum(top, ()), row.get("error", "")]


def csv_head(topk: int, segments: bool = False) -> list[str]:
    """Column names; of `segments` with their times."""
    tops = [f"top{k}_{what}" for k in range(1, topk + 1) for what in ("class", "probability")]
    return ["video", *(("start", "end") if segments else ()), "class", "label", "probability", *tops, "error"]


def as_json(rows: Iterable[dict[str, Any]], ascii_only: bool = False) -> Iterator[str]:
    """The pieces of a JSON list, which is complete even if the rows end with an exception."""
    before = "["
    try:
        for row in rows:
            yield f"{before}\n  {json.dumps(row, ensure_ascii=ascii_only)}"
            before = ","
    finally:
        yield ("[" if before == "[" else "\n") + "]"
