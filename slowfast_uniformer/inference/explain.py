"""Pictures of where a model looks: heat maps on the frames of a video, as a video and as a contact sheet."""

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.transforms import to_display, view_corner
from slowfast_uniformer.data.video import FrameFolder
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.predictor import UNKNOWN_FPS, Predictor
from slowfast_uniformer.inference.saliency import Map, look

COLUMNS, SIDE, GAP, LEFT = 8, 144, 6, 168  # of a contact sheet, in frames and pixels
TEXT, GREY = "#24292f", "#57606a"
LASTS = 3.0  # seconds that an overlay takes at least; shorter ones are shown more slowly


class Explanation(NamedTuple):
    """Where a model looks in a clip. `best` is its answer (class name, probability), `shown` the class in
    question; `frames` (T, H, W, 3) are the clip's, `numbers` theirs in the video."""

    sample: Sample
    best: tuple[str, float]
    shown: tuple[str, float]
    numbers: np.ndarray
    fps: float
    frames: np.ndarray
    maps: list[Map]

    def chosen(self, stage: str | None = None) -> Map:
        """The map of a stage; unless told, the rollout through all global blocks, the mean of several
        attentions, or the last stage's Grad-CAM. UserError if there is no such stage."""
        if stage is None:
            return next((each for each in self.maps if each.kind == "attention rollout"), self.maps[-1])
        for each in self.maps:
            if each.stage == stage:
                return each
        raise UserError(f"--stage {stage}: the model has {', '.join(each.stage for each in self.maps)}")


def explain(
    model: Predictor, sample: Sample, label: int | None = None, method: str = "auto", at: float | None = None
) -> Explanation:
    """Look at one clip of a video (see `Trained.clip`), for class `label`, or else the most probable.
    UserError if it cannot be read, or the model has no such maps (see `maps.look`)."""
    with model.open(sample) as source:
        fps = source.fps or UNKNOWN_FPS
        numbers, clip = model.clip(source, at)
    logits, maps = look(model.model, clip.to(model.device), label, method)
    probabilities = model.probabilities(logits.float().cpu().unsqueeze(0))
    best = int(probabilities.argmax())
    named = [(model.names[k], float(probabilities[k])) for k in (best, best if label is None else label)]
    return Explanation(sample, *named, numbers, fps, to_display(clip, model.cfg).numpy(), maps)


def label_of(word: str, names: Sequence[str]) -> int:
    """The label that a class's name, or the label itself, means. UserError if there is none."""
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.0)
    raise UserError(f"--class {word}: neither a class nor a label from 0 to {len(names) - 1}; the nearest is {near[0]}")


def heat(values: Tensor, frames: int, size: int) -> np.ndarray:
    """A map (T', H', W') over `frames` pictures of `size`, smoothly: (frames, size, size), its lowest value 0
    and, but for the highest 0.5 % which lie far off in some models, its highest 1."""
    values = values.detach().float().cpu()
    top = torch.quantile(values.flatten(), 0.995).clamp(min=1e-12)
    values = values.minimum(top) / top
    wide = F.interpolate(values.unsqueeze(1), (size, size), mode="bicubic", align_corners=False)
    wide = wide.clamp(values.min(), 1)  # which it passes beside a peak
    long = F.interpolate(wide.transpose(0, 1).unsqueeze(0), (frames, size, size), mode="trilinear")[0, 0]
    low, high = long.min(), long.max()
    return ((long - low) / (high - low).clamp(min=1e-6)).numpy()


def blend(frame: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) under its heat (H, W): the more of it, the less of the frame is to be seen."""
    color = _colors(heat)
    cover = 0.65 * heat[..., None] ** 0.7
    return (frame * (1 - cover) + color * cover).round().astype(np.uint8)


def _colors(heat: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return 255 * colormaps["turbo"](heat)[..., :3]


def write_overlay(
    model: Predictor, found: Explanation, path: str, stage: str | None = None, caption: bool = True
) -> None:
    """Write the part of a video that the clip spans, all of its frames, with the map of a stage (see
    `Explanation.chosen`) on what the model saw of them; what it did not see is dark. The `caption` is the
    class in question."""
    values = found.chosen(stage).values
    first, last = int(found.numbers.min()), int(found.numbers.max())
    words = [found.shown] if caption else []
    with model.open(found.sample) as source:
        size = video_writer.short_side(source.info.width, source.info.height)
        hot = heat(values, len(found.numbers), size)
        frames = _overlaid(source, size, first, last, found.numbers, hot)
        fps = min(found.fps, max(4.0, (last - first + 1) / LASTS))
        video_writer.write_video(path, (video_writer.caption(frame, words) for frame in frames), fps)


def _overlaid(
    source: Video | FrameFolder, size: int, first: int, last: int, numbers: np.ndarray, hot: np.ndarray
) -> Iterator[np.ndarray]:
    """Frames `first` to `last`, between the clip's `numbers` with the heat between theirs."""
    for start in range(first, last + 1, video_writer.TOGETHER):
        block = range(start, min(start + video_writer.TOGETHER, last + 1))
        for number, frame in zip(block, source.read(block, size), strict=True):
            place = np.interp(number, numbers, np.arange(len(numbers)))
            before, share = int(place), place % 1
            between = (1 - share) * hot[before] + share * hot[min(before + 1, len(hot) - 1)]
            top, left = view_corner(*frame.shape[:2], size, 1)
            seen = np.s_[top : top + size, left : left + size]
            picture = frame // 3
            picture[seen] = blend(frame[seen], between)
            yield picture


def contact_sheet(found: Explanation) -> np.ndarray:
    """A picture (H, W, 3) uint8: at most 8 frames of the clip in a row, and a row for each map."""
    columns = np.linspace(0, len(found.frames) - 1, min(COLUMNS, len(found.frames))).round().astype(int)
    scale = SIDE / max(found.frames.shape[1:3])
    large = [
        np.asarray(
            Image.fromarray(found.frames[t]).resize(
                [round(scale * side) for side in found.frames.shape[2:0:-1]], Image.Resampling.BICUBIC
            )
        )
        for t in columns
    ]
    rows = [(["frames", "as the model", "sees them"], large)]
    for each in found.maps:
        hot = heat(each.values, len(found.frames), SIDE)[columns]
        words = [each.title, *each.kind.split()]
        if each.kind == "attention":
            words.append(f"{each.values.sum():.0%} on patches")
        rows.append((words, [blend(*pair) for pair in zip(large, hot, strict=True)]))
    width, top = LEFT + len(columns) * (SIDE + GAP), 86
    page = Image.new("RGB", (max(width, 640), top + len(rows) * (SIDE + GAP) + 40), "white")
    draw = ImageDraw.Draw(page)
    _title(draw, found, page.width)
    for column, t in enumerate(columns):
        x = LEFT + column * (SIDE + GAP)
        draw.text((x, top - 4), f"{found.numbers[t] / found.fps:.2f} s", GREY, video_writer.font(12), anchor="ls")
    for number, (words, pictures) in enumerate(rows):
        y = top + number * (SIDE + GAP)
        for line, word in enumerate(words):
            size, color = (15, TEXT) if line == 0 else (12, GREY)
            draw.text((14, y + 24 + 19 * line), word, color, video_writer.font(size), anchor="ls")
        for column, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), (LEFT + column * (SIDE + GAP), y))
    _legend(page, draw, page.height - 26)
    return np.asarray(page)


def _title(draw: ImageDraw.ImageDraw, found: Explanation, width: int) -> None:
    (best, most), (shown, value) = found.best, found.shown
    title = video_writer.fitted(f"{shown}  {value:.1%}", 22, width - 28)
    draw.text((14, 34), title, TEXT, video_writer.font(22), anchor="ls")
    about = found.sample.path if shown == best else f"{found.sample.path}   the answer is {best}, {most:.1%}"
    draw.text((14, 58), video_writer.fitted(about, 13, width - 28), GREY, video_writer.font(13), anchor="ls")


def _legend(page: Image.Image, draw: ImageDraw.ImageDraw, y: int) -> None:
    bar = np.tile(_colors(np.linspace(0, 1, 160)), (12, 1, 1)).astype(np.uint8)
    draw.text((LEFT, y + 11), "least", GREY, video_writer.font(12), anchor="ls")
    page.paste(Image.fromarray(bar), (LEFT + 40, y))
    draw.text((LEFT + 208, y + 11), "most, in each row by itself", GREY, video_writer.font(12), anchor="ls")


def write_picture(picture: np.ndarray, path: str) -> None:
    """Write (H, W, 3) uint8 as PNG. UserError if it cannot be written."""
    with video_writer.replacing(path) as beside:
        Image.fromarray(picture).save(beside, "png")
