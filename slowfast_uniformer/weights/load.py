"""Weights from files into models: what a checkpoint says in any dialect, fitted to a model, with an account
of what went where."""

import collections
import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import layers
from slowfast_uniformer.weights import formats
from slowfast_uniformer.weights.files import read_tensors
from slowfast_uniformer.weights.registry import find_weights

MAPS = Path(__file__).parents[1] / "labels"  # published maps from one data set's classes to another's


@dataclass
class Weights(formats.ConvertedWeights):
    """A checkpoint's tensors in this program's names, and the plain values beside them (`about`)."""

    about: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str] | None:
        return self.about.get("class_names")


@dataclass(frozen=True)
class LoadSummary:
    """What became of the tensors of a checkpoint, by name.

    `inflated` (given a time axis), `resized` (position embedding of another grid) and `remapped` (classes in
    another order) are parts of `loaded`; `missing` are the model's own that keep their values; `unexpected`
    and `dropped` were left out, the latter on purpose (name -> why); `fraction` of the model's parameters (by
    number of elements) were loaded.
    """

    dialect: str
    loaded: list[str]
    inflated: list[str]
    resized: list[str]
    remapped: list[str]
    missing: list[str]
    unexpected: list[str]
    dropped: dict[str, str]
    fraction: float

    def __str__(self) -> str:
        changes = {"inflated": self.inflated, "resized": self.resized, "remapped": self.remapped}
        told = "".join(f"; {len(names)} {what}" for what, names in changes.items() if names)
        lines = [f"{self.dialect}: {len(self.loaded)} tensors loaded ({self.fraction:.1%} of the parameters{told})"]
        lines += [f"{len(self.missing)} left as they were ({_some(self.missing)})"] if self.missing else []
        lines += [f"{len(self.unexpected)} not used ({_some(self.unexpected)})"] if self.unexpected else []
        return ", ".join(lines + dropped_summary(self.dropped))


def dropped_summary(dropped: Mapping[str, str]) -> list[str]:
    """ "3 dropped (why)" for each reason."""
    return [f"{count} dropped ({why})" for why, count in collections.Counter(dropped.values()).items()]


def inflate_weight(weight_2d: Tensor, time_dim: int, center: bool = False) -> Tensor:
    """Give an image kernel (O, I, h, w) a time axis: (O, I, time_dim, h, w).

    Over frames that are all alike the result answers as the image kernel does: it is spread evenly over time
    (I3D, arXiv 1705.07750, section 2.4.1), or with `center` put into the middle, the rest being zero.
    """
    if not center:
        return weight_2d.unsqueeze(2).repeat(1, 1, time_dim, 1, 1) / time_dim
    weight = weight_2d.new_zeros(*weight_2d.shape[:2], time_dim, *weight_2d.shape[2:])
    weight[:, :, time_dim // 2] = weight_2d
    return weight


def read_weights(name: str) -> Weights:
    """The weights that MODEL.INIT_FROM or a checkpoint's path means (see `weight_files.find`), in this
    program's names. Raises UserError as `weight_files.read_file` and `dialects.translate` do.
    """
    tensors, about = read_tensors(name)
    try:
        found = formats.convert_format(tensors, _hints(find_weights(name)) if "://" not in name else {})
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    weights = Weights(**vars(found), about=about)
    weights.arithmetic |= about.get("arithmetic", {})
    weights.image |= bool(about.get("image"))
    return weights


def _hints(path: str) -> dict[str, Any]:
    """What the configuration beside a Hugging Face checkpoint tells of its arithmetic."""
    beside = os.path.join(os.path.dirname(path), "config.json")
    try:
        with open(beside, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    vision = content.get("vision_config", content) if isinstance(content, dict) else {}
    return {"hidden_act": vision["hidden_act"]} if "hidden_act" in vision else {}


def load_weights(
    model: nn.Module,
    weights: Weights | Mapping[str, Tensor],
    *,
    init_head: str = "keep",
    class_names: Sequence[str] | None = None,
    allow: Sequence[str] = (),
    source: str = "checkpoint",
) -> LoadSummary:
    """Copy `weights` (or tensors in the model's own names) into `model`, all or none.

    Image kernels are inflated where the model has a time axis, a position embedding of another grid is
    interpolated. `init_head` says what becomes of the classifier (`model.classifier`): "keep" it, its rows
    in the order of `class_names` where the checkpoint carries names; "new" leaves the model's; "map:..."
    takes the rows that `head_map` tells. Every other name and shape must agree, but for those that fit a
    pattern of `allow` (as in file names), and what only video models have (`model.video_only`) when an image
    model's weights are given. Raises UserError, naming `source` and the first names at fault.
    """
    if not isinstance(weights, Weights):
        weights = Weights("this program's names", dict(weights))
    own, heads = model.state_dict(), tuple(f"{name}." for name in model.classifier)
    given, dropped = dict(weights.tensors), dict(weights.dropped)
    head_names = [name for name in given if name.startswith(heads)]
    remapped: list[str] = []
    if init_head == "new":
        dropped |= {name: "the classifier" for name in head_names if given.pop(name) is not None}
    elif rows := _head_rows(init_head, weights.class_names, class_names, source):
        _check_rows(rows, given, head_names, source)
        given |= {name: given[name][rows] for name in head_names}
        remapped = head_names
    _check_classes(own, given, heads, source)
    center = getattr(model, "inflates_center", False)
    fitted = {name: _fit(name, given[name], own[name].shape, center) for name in own if name in given}
    inflated = [name for name, (_, how) in fitted.items() if how == "inflated"]
    report = LoadSummary(
        dialect=weights.dialect,
        loaded=list(fitted),
        inflated=inflated,
        resized=[name for name, (_, how) in fitted.items() if how == "resized"],
        remapped=remapped,
        missing=[name for name in own if name not in given],
        unexpected=[name for name in given if name not in own],
        dropped=dropped,
        fraction=_fraction(model, fitted),
    )
    video_only = getattr(model, "video_only", ()) if inflated or weights.image else ()
    needed = [name for name in report.missing if not any(part in name for part in video_only)]
    if init_head == "new":
        needed = [name for name in needed if not name.startswith(heads)]
    misshapen = [name for name, (_, how) in fitted.items() if how == "misshapen"]
    shapes = [f"{name}: {tuple(given[name].shape)} for {tuple(own[name].shape)}" for name in misshapen]
    faults = {"missing": _not_allowed(needed, allow), "unexpected": _not_allowed(report.unexpected, allow)}
    _check_fit(faults | {"of another shape": shapes}, heads, source)
    model.load_state_dict({name: value for name, (value, _) in fitted.items()}, strict=False)
    return report


def _fraction(model: nn.Module, loaded: Mapping) -> float:
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    return sum(size for name, size in sizes.items() if name in loaded) / sum(sizes.values())


def _fit(name: str, value: Tensor, shape: torch.Size, center: bool) -> tuple[Tensor, str]:
    """The tensor in the shape that is wanted, and how it came to it."""
    if value.shape == shape:
        return value, ""
    if len(shape) == 5 and value.ndim == 5 and value.shape[2] == 1:
        value = value.squeeze(2)
    if len(shape) == 5 and value.shape == shape[:2] + shape[3:]:
        return inflate_weight(value, shape[2], center), "inflated"
    if name.endswith("positional_embedding") and value.ndim == 2 and value.shape[1:] == shape[1:]:
        side = int((shape[0] - 1) ** 0.5)
        return layers.resize_position(value.float(), (side, side)), "resized"
    return value, "misshapen"


def _head_rows(
    init_head: str, theirs: Sequence[str] | None, ours: Sequence[str] | None, source: str
) -> list[int] | None:
    """Which row of the checkpoint's classifier each class here takes; None is each its own."""
    if init_head.startswith("map:"):
        return head_map(init_head.removeprefix("map:"), ours)
    if not theirs or not ours or list(theirs) == list(ours):
        return None
    return _rows_by_name(theirs, ours, source)


def _rows_by_name(theirs: Sequence[str], ours: Sequence[str], source: str) -> list[int]:
    rows = {name: row for row, name in enumerate(theirs)}
    unknown = [name for name in ours if name not in rows]
    if unknown:
        raise UserError(
            f"{source}: its class names differ from the data's: it has no {_some(unknown)}. Correct "
            "DATA.CLASS_NAMES if they are the same classes, name the rows to take with MODEL.INIT_HEAD "
            "map:FILE, or start with a new classifier, MODEL.INIT_HEAD new"
        )
    return [rows[name] for name in ours]


def head_map(spec: str, class_names: Sequence[str] | None = None) -> list[int]:
    """The rows that MODEL.INIT_HEAD map:SPEC takes from a checkpoint's classifier, one for each class here.

    SPEC is a list of row numbers; a JSON file with such a list; a text file (or JSON list) of the
    checkpoint's class names in its order, of which the rows of `class_names` are taken; or the name of a
    published map: see slowfast_uniformer/labels. Raises UserError naming the file or the class at fault.
    """
    if spec.lstrip().startswith("["):
        content, where = spec, "MODEL.INIT_HEAD map"
    else:
        known = {path.stem: path for path in MAPS.glob("*.json")}
        path = Path(spec) if os.path.isfile(spec) else known.get(spec)
        if path is None:
            raise UserError(
                f"MODEL.INIT_HEAD: no file {spec!r}, nor a published map of that name ({', '.join(sorted(known))})"
            )
        content, where = path.read_text(encoding="utf-8"), str(path)
    try:
        entries = json.loads(content)
    except ValueError:
        if content.lstrip().startswith("["):
            raise UserError(f"{where}: not a JSON list") from None
        entries = [line.strip() for line in content.splitlines() if line.strip()]
    if all(isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0 for entry in entries):
        return list(entries)
    if not all(isinstance(entry, str) for entry in entries):
        raise UserError(f"{where}: must hold row numbers (0 or more) or class names, and not both")
    if not class_names:
        raise UserError(f"{where}: holds class names, but the data has none; set DATA.CLASS_NAMES")
    return _rows_by_name(entries, class_names, where)


def _check_rows(rows: list[int], given: Mapping, head_names: list[str], source: str) -> None:
    for name in head_names:
        if max(rows) >= len(given[name]):
            raise UserError(
                f"{source}: MODEL.INIT_HEAD takes row {max(rows)} of a classifier of {len(given[name])} "
                f"classes ({name}); this map is for another checkpoint"
            )


def _check_classes(own: Mapping, given: Mapping, heads: tuple[str, ...], source: str) -> None:
    for name in own:
        if name.startswith(heads) and name in given and given[name].shape[:1] != own[name].shape[:1]:
            raise UserError(
                f"{source} knows {len(given[name])} classes, but MODEL.NUM_CLASSES is {len(own[name])}. "
                "To start with a new classifier, set MODEL.INIT_HEAD new; to take the rows of some classes, "
                "MODEL.INIT_HEAD map:..."
            )


def _not_allowed(names: Sequence[str], allow: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)]


def _check_fit(found: Mapping[str, list[str]], heads: tuple[str, ...], source: str) -> None:
    faults = [f"{len(names)} {what} ({_some(names)})" for what, names in found.items() if names]
    if not faults:
        return
    remedy = "MODEL.MODEL_NAME and its section must describe the model that was trained"
    if found["missing"] and all(name.startswith(heads) for name in found["missing"]):
        remedy = "to start with a new classifier, set MODEL.INIT_HEAD new"
    raise UserError(f"{source} does not fit the model: {'; '.join(faults)}; {remedy}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
