"""Class names for videos: one answer each, and of a long one what it shows as time goes by."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.predictor import UNKNOWN_FPS, Predictor, Span

COLORS = ("#3b6fb6", "#d9822b", "#1a7f37", "#8250df", "#c62828", "#0e7490")
GREY, TEXT = "#8c959f", "#24292f"
LINES = 3  # classes named on an overlay
DRAWN = 150  # steps of a curve that can be told apart
TICKS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds between marks of time


class VideoPrediction(NamedTuple):
    """What a video shows: `row` is to be printed (see `Trained.answer`; for a long video with `timeline`, for
    one that cannot be read with `error`), `spans` is the timeline where there is one."""

    row: dict[str, Any]
    probabilities: Tensor | None
    spans: list[Span]


def predict(
    model: Predictor,
    samples: Sequence[Sample],
    topk: int = 5,
    longer_than: float = 30.0,
    window: float | None = None,
    step: float | None = None,
    workers: int = 0,
) -> Iterator[VideoPrediction]:
    """Answer each video as testing does, from several views; those of more seconds than `longer_than` by
    sliding windows (see `Trained.timeline`). One that cannot be read gives an `error` and no class."""
    long = [_seconds(model, sample) > longer_than for sample in samples]
    short = [sample for sample, is_long in zip(samples, long, strict=True) if not is_long]
    answers = model.answers(short, workers)
    for sample, is_long in zip(samples, long, strict=True):
        try:
            if is_long:
                yield _long(model, sample, topk, window, step)
            else:
                yield _short(model, sample, answers, topk)
        except UserError as error:
            nothing = {"class": None, "label": None, "probability": None, "topk": []}
            yield VideoPrediction({"video": sample.path, **nothing, "error": str(error)}, None, [])


def _seconds(model: Predictor, sample: Sample) -> float:
    try:
        with model.open(sample) as video:
            return video.frames / (video.fps or UNKNOWN_FPS)
    except UserError:
        return 0.0  # whoever reads it says why


def _short(model: Predictor, sample: Sample, answers: Iterator[Tensor | UserError], topk: int) -> VideoPrediction:
    found = next(answers)
    if isinstance(found, UserError):
        raise found
    return VideoPrediction(model.answer(sample.path, found, topk), found, [])


def _long(model: Predictor, sample: Sample, topk: int, window: float | None, step: float | None) -> VideoPrediction:
    spans = model.timeline(sample.path, window, step)
    lengths = torch.tensor([span.end - span.start for span in spans], dtype=torch.float64)
    mean = torch.stack([span.probabilities for span in spans]).T @ (lengths / lengths.sum())
    row = model.answer(sample.path, mean, topk) | {"timeline": segments(spans, model.names)}
    return VideoPrediction(row, mean, spans)


def segments(spans: Sequence[Span], names: Sequence[str]) -> list[dict[str, Any]]:
    """Spans in a row with the same most probable class as one: `start`, `end` (seconds), `class`, `label` and
    its mean `probability`."""
    found: list[dict[str, Any]] = []
    for span in spans:
        label = int(span.probabilities.argmax())
        if not found or found[-1]["label"] != label:
            found.append(
                {"start": round(span.start, 3), "end": 0.0, "class": names[label], "label": label, "probability": 0.0}
            )
        found[-1]["probability"] += float(span.probabilities[label]) * (span.end - span.start)
        found[-1]["end"] = round(span.end, 3)
    for each in found:
        each["probability"] = round(each["probability"] / max(each["end"] - each["start"], 1e-9), 6)
    return found


def overlay(model: Predictor, sample: Sample, answer: VideoPrediction, path: str) -> None:
    """Write the video with its classes burnt in: of a long one those of each moment."""
    spans = answer.spans or [Span(0.0, np.inf, answer.probabilities)]

    def frames(source: Any, fps: float) -> Iterator[np.ndarray]:
        at = 0
        for number, frame in enumerate(video_writer.frames_of(source)):
            while at + 1 < len(spans) and number / fps >= spans[at].end:
                at += 1
            best = spans[at].probabilities.topk(min(LINES, len(model.names)))
            words = [model.names[label] for label in best.indices.tolist()]
            yield video_writer.caption(frame, list(zip(words, best.values.tolist(), strict=True)))

    with model.open(sample) as source:
        fps = source.fps or UNKNOWN_FPS
        video_writer.write_video(path, frames(source, fps), fps)


def draw_timeline(spans: Sequence[Span], names: Sequence[str], path: str, title: str = "") -> None:
    """Write a picture (PNG): what is most probable as time goes by, and how probable the six main classes
    are."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    figure = Figure((11, 4.2), dpi=110, layout="constrained", facecolor="white")
    strip, curves = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
    parts = segments(spans, names)
    seconds = {
        label: sum(p["end"] - p["start"] for p in parts if p["label"] == label)
        for label in {part["label"] for part in parts}
    }
    main = sorted(seconds, key=seconds.get, reverse=True)[: len(COLORS)]
    color = dict(zip(main, COLORS, strict=False))
    strip.broken_barh(
        [(part["start"], part["end"] - part["start"]) for part in parts],
        (0, 1),
        facecolors=[color.get(part["label"], GREY) for part in parts],
        edgecolor="white",
        linewidth=0.8,
    )
    edges, values = _evened(spans)
    for label in main:
        name = names[label] if len(names[label]) <= 32 else names[label][:31] + "…"
        curves.stairs(values[label], edges, color=color[label], linewidth=1.6, label=name, baseline=None)
    strip.set(ylim=(0, 1), yticks=[], xlim=(0, spans[-1].end))
    strip.set_title(title, loc="left", color=TEXT, fontsize=11)
    curves.set(ylim=(0, 1.03), ylabel="probability")
    curves.set_xlabel("time (minutes:seconds)", color=TEXT)
    curves.xaxis.set_major_locator(MultipleLocator(next((s for s in TICKS if 9 * s >= edges[-1]), edges[-1])))
    curves.xaxis.set_major_formatter(lambda value, _: clock(value))
    curves.tick_params(pad=6)
    for axes in (strip, curves):
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=TEXT, length=0)
    curves.grid(axis="y", color="#d0d7de", linewidth=0.6)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=TEXT)
    with video_writer.replacing(path) as beside:
        figure.savefig(beside, format="png")


def _evened(spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Edges and mean probabilities (K, N) of the spans, or of as many equal ones as can be told apart."""
    edges = np.array([span.start for span in spans] + [spans[-1].end])
    values = torch.stack([span.probabilities for span in spans], 1).double().numpy()
    if len(spans) <= DRAWN:
        return edges, values
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values * np.diff(edges), 1)], 1)
    even = np.linspace(0, edges[-1], DRAWN + 1)
    return even, np.stack([np.diff(np.interp(even, edges, row)) / np.diff(even) for row in sums])


def clock(seconds: float) -> str:
    """Minutes and seconds, 1:02.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}" if rest % 1 else f"{minutes:.0f}:{rest:02.0f}"


def as_text(row: dict[str, Any]) -> str:
    """An answer for people."""
    lines = [row["video"]]
    lines += [f"  {each['probability']:>6.1%}  {each['class']}" for each in row["topk"]]
    for part in row.get("timeline", ()):
        times = f"{clock(part['start'])} to {clock(part['end'])}"
        lines.append(f"  {times:>18}  {part['class']} ({part['probability']:.1%})")
    return "\n".join(lines)


def as_csv(row: dict[str, Any], topk: int) -> list[Any]:
    """The fields of a line: those of `csv_head`."""
    top = [(each["class"], each["probability"]) for each in row["topk"]]
    top += [("", "")] * (topk - len(top))
    return [row["video"], row["class"], row["label"], row["probability"], *sum(top, ()), row.get("error", "")]


def csv_head(topk: int) -> list[str]:
    tops = [f"top{k}_{what}" for k in range(1, topk + 1) for what in ("class", "probability")]
    return ["video", "class", "label", "probability", *tops, "error"]


def as_json(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The pieces of a JSON list, complete however the rows end."""
    before = "["
    try:
        for row in rows:
            yield f"{before}\n  {json.dumps(row, ensure_ascii=False)}"
            before = ","
    finally:
        yield ("[" if before == "[" else "\n") + "]"
