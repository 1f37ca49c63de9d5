"""Saliency maps as pictures: on the frames of a video, and as a contact sheet."""

import difflib
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.transforms import to_display, view_corner
from slowfast_uniformer.data.video import VideoSource
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.outputs import atomic_output
from slowfast_uniformer.inference.predictor import Predictor, as_sample, fps_of
from slowfast_uniformer.inference.saliency import SaliencyMap, saliency_maps
from slowfast_uniformer.inference.video_writer import caption, numbered_frames, short_side, write_video
from slowfast_uniformer.runs.fonts import draw_text, fitted

COLUMNS, SIDE, GAP, LEFT, TOP = 8, 144, 6, 168, 86  # of a contact sheet, in frames and pixels
TEXT, GREY = "#24292f", "#57606a"


class Explanation(NamedTuple):
    """Where a model looks in one clip.

    Attributes:
        sample: the video.
        predicted: the most probable class and its probability.
        explained: the class in question and its probability.
        numbers: frame numbers (T,) in the video.
        fps: frames per second of the video.
        frames: (T, H, W, 3) uint8, as the model sees them.
        maps: of all stages.
    """

    sample: Sample
    predicted: tuple[str, float]
    explained: tuple[str, float]
    numbers: np.ndarray
    fps: float
    frames: np.ndarray
    maps: list[SaliencyMap]

    def select(self, stage: str | None = None) -> SaliencyMap:
        """The map of a stage; by default the rollout through all global blocks, the mean of several attentions, or the
        last stage's Grad-CAM. UserError if there is no such stage."""
        if stage is None:
            return next((each for each in self.maps if each.kind == "attention rollout"), self.maps[-1])
        for each in self.maps:
            if each.stage == stage:
                return each
        raise UserError(f"--stage {stage}: the stages of the model are {', '.join(each.stage for each in self.maps)}")

    def picture(self) -> Image.Image:
        """The contact sheet: at most 8 frames of the clip, and below them a row for each map."""
        return Image.fromarray(contact_sheet(self))


def explain(
    model: Predictor,
    video: str | PathLike | Sample,
    label: int | None = None,
    method: str = "auto",
    at: float | None = None,
) -> Explanation:
    """Compute where a model looks in one clip of a video: Grad-CAM and attention maps.

    Args:
        model: of `load_model`.
        video: a file, a folder of frames, or a segment as a `Sample`.
        label: the class to explain, an index of `model.names`; None is the most probable one.
        method: "gradcam" is what in the output of a stage speaks for the class; "attention", which does not depend on
            a class, what stages of global blocks attend to; "auto" the former for convolutional stages and the latter
            for those that attend.
        at: seconds, the middle of the clip; None is the middle of the video.

    Returns:
        The maps with the frames that the model saw. `picture()` draws them.

    Raises:
        UserError: the video cannot be read, or the model has no such maps.
    """
    sample = video if isinstance(video, Sample) else as_sample(video, model.cfg)
    with model.open(sample) as source:
        fps = fps_of(source)
        numbers, clip = model.clip(source, at)
    logits, maps = saliency_maps(model.model, clip.to(model.device), label, method)
    probabilities = model.probabilities(logits.float().cpu().unsqueeze(0))
    best = int(probabilities.argmax())
    classes = [(model.names[k], float(probabilities[k])) for k in (best, best if label is None else label)]
    return Explanation(sample, *classes, numbers, fps, to_display(clip, model.cfg).numpy(), maps)


def label_of(word: str, names: Sequence[str]) -> int:
    """The label of a class given by its name or label. UserError if there is none."""
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.0)
    raise UserError(f"--class {word}: neither a class nor a label from 0 to {len(names) - 1}; the nearest is {near[0]}")


def heat_maps(values: Tensor, frames: int, size: int) -> np.ndarray:
    """Upsample a map (T', H', W') smoothly to (frames, size, size), from 0 to 1.

    The highest 0.5 % are clipped, since in some models they are far above all others.
    """
    values = values.detach().float().cpu()
    top = torch.quantile(values.flatten(), 0.995).clamp(min=1e-12)
    values = values.minimum(top) / top
    wide = F.interpolate(values.unsqueeze(1), (size, size), mode="bicubic", align_corners=False)
    wide = wide.clamp(values.min(), 1)  # bicubic interpolation overshoots beside a peak
    long = F.interpolate(wide.transpose(0, 1).unsqueeze(0), (frames, size, size), mode="trilinear")[0, 0]
    low, high = long.min(), long.max()
    return ((long - low) / (high - low).clamp(min=1e-6)).numpy()


def blend(frame: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) under its heat map (H, W), which is the more opaque the higher it is."""
    opacity = 0.65 * heat[..., None] ** 0.7
    return (frame * (1 - opacity) + _colors(heat) * opacity).round().astype(np.uint8)


def _colors(heat: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return 255 * colormaps["turbo"](heat)[..., :3]


def write_overlay(
    model: Predictor, explanation: Explanation, path: str, stage: str | None = None, with_caption: bool = True
) -> None:
    """Write all frames of the part of a video that the clip spans, under the heat map of a stage.

    Args:
        model: the model that opens the video.
        explanation: of a clip of the video.
        path: the .mp4 to write.
        stage: see `Explanation.select`.
        with_caption: name the explained class.

    Raises:
        UserError: the video cannot be read, the file cannot be written, or there is no such stage.
    """
    values = explanation.select(stage).values
    length = int(explanation.numbers.max()) - int(explanation.numbers.min()) + 1
    lines = [explanation.explained] if with_caption else []
    with model.open(explanation.sample) as video:
        fps = min(explanation.fps, max(4.0, length / 3))  # clips of less than 3 seconds are played more slowly
        frames = _overlaid(video, explanation.numbers, values)
        write_video(path, (caption(frame, lines) for frame in frames), fps)


def _overlaid(video: VideoSource, numbers: np.ndarray, values: Tensor) -> Iterator[np.ndarray]:
    """The frames from the first of `numbers` (T,) to the last, under heat interpolated between them.

    What the model did not see of a frame is dark.
    """
    size = short_side(video)
    heat = heat_maps(values, len(numbers), size)
    for number, frame in numbered_frames(video, int(numbers.min()), int(numbers.max())):
        position = np.interp(number, numbers, np.arange(len(numbers)))
        before, share = int(position), position % 1
        between = (1 - share) * heat[before] + share * heat[min(before + 1, len(heat) - 1)]
        top, left = view_corner(*frame.shape[:2], size, 1)
        seen = np.s_[top : top + size, left : left + size]
        picture = frame // 3
        picture[seen] = blend(frame[seen], between)
        yield picture


def contact_sheet(explanation: Explanation) -> np.ndarray:
    """A picture (H, W, 3) uint8: at most 8 frames of the clip, and below them a row for each map."""
    frames, maps = explanation.frames, explanation.maps
    columns = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    scale = SIDE / max(frames.shape[1:3])
    size = [round(scale * side) for side in frames.shape[2:0:-1]]
    resized = [np.asarray(Image.fromarray(frames[t]).resize(size, Image.Resampling.BICUBIC)) for t in columns]
    rows = [(["frames", "as the model", "sees them"], resized)]
    for each in maps:
        heat = heat_maps(each.values, len(frames), SIDE)[columns]
        lines = [each.title, *each.kind.split()]
        if each.kind == "attention":
            lines.append(f"{each.values.sum():.0%} on patches")
        rows.append((lines, [blend(*pair) for pair in zip(resized, heat, strict=True)]))
    width = LEFT + len(columns) * (SIDE + GAP)
    page = Image.new("RGB", (max(width, 640), TOP + len(rows) * (SIDE + GAP) + 40), "white")
    draw = ImageDraw.Draw(page)
    (best, most), (name, probability) = explanation.predicted, explanation.explained
    room = page.width - 28
    predicted = "" if name == best else f"   predicted: {fitted(best, 13, room // 2, f', {most:.1%}')}"
    draw_text(draw, (14, 34), fitted(name, 22, room, f"  {probability:.1%}"), 22, TEXT)
    draw_text(draw, (14, 58), fitted(explanation.sample.path, 13, room, predicted), 13, GREY)
    for column, t in enumerate(columns):
        seconds = explanation.numbers[t] / explanation.fps
        draw_text(draw, (LEFT + column * (SIDE + GAP), TOP - 4), f"{seconds:.2f} s", 12, GREY)
    for number, (lines, pictures) in enumerate(rows):
        y = TOP + number * (SIDE + GAP)
        for line, text in enumerate(lines):
            size, color = (15, TEXT) if line == 0 else (12, GREY)
            draw_text(draw, (14, y + 24 + 19 * line), text, size, color)
        for column, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), (LEFT + column * (SIDE + GAP), y))
    bar, y = np.tile(_colors(np.linspace(0, 1, 160)), (12, 1, 1)).astype(np.uint8), page.height - 26
    draw_text(draw, (LEFT, y + 11), "least", 12, GREY)
    page.paste(Image.fromarray(bar), (LEFT + 40, y))
    draw_text(draw, (LEFT + 208, y + 11), "most, in each row by itself", 12, GREY)
    return np.asarray(page)


def write_picture(picture: np.ndarray, path: str) -> None:
    """Write (H, W, 3) uint8 as PNG. UserError if it cannot be written."""
    with atomic_output(path) as temporary:
        Image.fromarray(picture).save(temporary, "png")
