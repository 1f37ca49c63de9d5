"""Loading weights into a model, whatever their checkpoint format, with a summary of what was loaded."""

import collections
import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_uniformer.data.classes import comparable, differences, read_class_names, visible
from slowfast_uniformer.data.list_text import read_text
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.registry import require
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.weights.files import first_few, read_tensors
from slowfast_uniformer.weights.formats import Weights, convert_format
from slowfast_uniformer.weights.resolve import find_weights
from slowfast_uniformer.wording import counted

MAPS = Path(__file__).parents[1] / "labels"  # published maps from one data set's classes to another's
_POOL = "attentive."  # of the attentive head (models/attentive.py), a part of the classifier
_NEW = "To start with a new classifier, set MODEL.INIT_HEAD new"
_NEW_OR_ROWS = f"{_NEW}; to take the rows of some classes, MODEL.INIT_HEAD map:FILE"


class ClassesDiffer(UserError):
    """The classifier of a checkpoint is for other classes, or not there."""


@dataclass(frozen=True)
class LoadSummary:
    """What became of the tensors of a checkpoint, by name.

    Attributes:
        checkpoint_format: as in `Weights`.
        loaded: all that were loaded.
        inflated: of these, image kernels that were given a time axis.
        resized: of these, position embeddings interpolated to another grid.
        remapped: of these, classifier tensors whose rows are in another order.
        missing: the model's own that keep their values.
        unexpected: in the checkpoint, but not in the model.
        dropped: left out on purpose: name -> why.
        fraction: of the model's parameters that were loaded, by number of elements, 0 to 1.
    """

    checkpoint_format: str
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
        changed = "".join(f"; {len(names)} {what}" for what, names in changes.items() if names)
        lines = [f"{self.checkpoint_format or 'weights'}: {counted(len(self.loaded), 'tensor')} loaded"]
        lines[0] += f" ({self.fraction:.1%} of the parameters{changed})"
        lines += [f"{len(self.missing)} missing ({first_few(self.missing)})"] if self.missing else []
        lines += [f"{len(self.unexpected)} unexpected ({first_few(self.unexpected)})"] if self.unexpected else []
        return ", ".join(lines + dropped_summary(self.dropped))


def dropped_summary(dropped: Mapping[str, str]) -> list[str]:
    """ "3 dropped (why)" for each reason."""
    return [f"{count} dropped ({why})" for why, count in collections.Counter(dropped.values()).items()]


def inflate_weight(weight_2d: Tensor, time_dim: int, center: bool = False) -> Tensor:
    """Give an image kernel a time axis, so that it computes the same on a clip of equal frames.

    Args:
        weight_2d: (O, I, h, w).
        time_dim: length of the time axis.
        center: put the kernel into the middle of the time axis and zeros elsewhere, instead of spreading it evenly over
            time (I3D, arXiv 1705.07750, section 2.4.1).

    Returns:
        (O, I, time_dim, h, w).
    """
    if not center:
        return weight_2d.unsqueeze(2).repeat(1, 1, time_dim, 1, 1) / time_dim
    weight = weight_2d.new_zeros(*weight_2d.shape[:2], time_dim, *weight_2d.shape[2:])
    weight[:, :, time_dim // 2] = weight_2d
    return weight


def read_weights(name: str) -> Weights:
    """Read weights of any known checkpoint format under this program's parameter names.

    Args:
        name: a path, name or address as in MODEL.INIT_FROM (see `resolve.resolve`).

    Raises:
        UserError: as `files.read_tensors` and `formats.convert_format`.
    """
    path = find_weights(name)
    with Phase(f"read {name}"):
        tensors, metadata = read_tensors(path)
    try:
        weights = convert_format(tensors, _hints(path))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    weights.metadata = metadata
    weights.vit_variant |= metadata.get("arithmetic", {})
    weights.image |= metadata.get("image", False)
    return weights


def _hints(path: str) -> dict[str, Any]:
    """The activation that the config.json beside a Hugging Face checkpoint names."""
    try:
        content = json.loads(Path(path).with_name("config.json").read_text(encoding="utf-8"))
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
    head_remedy: str = "",
) -> LoadSummary:
    """Copy weights into a model, all or none.

    Image kernels are inflated where the model has a time axis; a position embedding of another grid is interpolated.
    All names and shapes must agree, except for names that match `allow` and, with an image model's weights, what only
    video models have (`model.video_only`).

    Args:
        model: has `classifier`, the names of its classification layers.
        weights: of `read_weights`, or tensors by the model's own names.
        init_head: what becomes of the classifier. "keep" loads it, with its rows in the order of `class_names` where
            the checkpoint has class names; "new" leaves the model's; "map:..." takes the rows of `head_map`.
        class_names: the classes of the model in label order.
        allow: patterns, as of file names, of parameters that may be missing or unexpected.
        source: what error messages call the checkpoint.
        head_remedy: what they advise where the classifier does not match; "" is MODEL.INIT_HEAD.

    Raises:
        UserError: names or shapes do not agree; names the first of them. It is `ClassesDiffer` where the classifier
            alone does not match.
    """
    if not isinstance(weights, Weights):
        weights = Weights("state dict", dict(weights))
    require(model, "classifier", source)
    own, heads = model.state_dict(), tuple(f"{name}." for name in model.classifier)
    given, dropped = dict(weights.tensors), dict(weights.dropped)
    head_names = [name for name in given if name.startswith(heads)]
    remapped: list[str] = []
    if init_head == "new":
        left_out = [name for name in given if name.startswith((*heads, _POOL))]
        dropped |= dict.fromkeys(left_out, "the classifier")
        given = {name: value for name, value in given.items() if name not in left_out}
    elif rows := _head_rows(init_head, weights.class_names, class_names, source, head_remedy):
        given |= {name: _take_rows(given[name], rows, name, source) for name in head_names}
        remapped = head_names
    _check_classes(own, given, heads, source, head_remedy)
    center = getattr(model, "inflates_center", False)
    fitted: dict[str, Tensor] = {}
    changes: dict[str, list[str]] = collections.defaultdict(list)
    for name in own:
        if name in given:
            fitted[name], change = _fit(name, given[name], own[name].shape, center)
            changes[change].append(name)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    summary = LoadSummary(
        checkpoint_format=weights.checkpoint_format,
        loaded=list(fitted),
        inflated=changes["inflated"],
        resized=changes["resized"],
        remapped=remapped,
        missing=[name for name in own if name not in given],
        unexpected=[name for name in given if name not in own],
        dropped=dropped,
        fraction=sum(size for name, size in sizes.items() if name in fitted) / sum(sizes.values()),
    )
    optional = getattr(model, "video_only", ()) if summary.inflated or weights.image else ()
    may_lack = [*allow, *(f"*{part}*" for part in optional)]
    may_lack += [f"{head}*" for head in (*heads, _POOL) if init_head == "new"]
    faults = {
        "missing": _not_allowed(summary.missing, may_lack),
        "unexpected": _not_allowed(summary.unexpected, allow),
        "with a shape mismatch": [
            f"{name}: {tuple(given[name].shape)} for {tuple(own[name].shape)}" for name in changes["shape mismatch"]
        ],
    }
    _check_fit(faults, heads, source, head_remedy)
    model.load_state_dict(fitted, strict=False)
    return summary


def _fit(name: str, value: Tensor, shape: torch.Size, center: bool) -> tuple[Tensor, str]:
    """The tensor in the model's shape, and how it was changed ("" if not)."""
    if value.shape == shape:
        return value, ""
    if len(shape) == 5 and value.ndim == 5 and value.shape[2] == 1:
        value = value.squeeze(2)
    if len(shape) == 5 and value.shape == shape[:2] + shape[3:]:
        return inflate_weight(value, shape[2], center), "inflated"
    if name.endswith("positional_embedding") and value.ndim == 2 and value.shape[1:] == shape[1:]:
        side = int((shape[0] - 1) ** 0.5)
        return layers.resize_position(value.float(), (side, side)), "resized"
    return value, "shape mismatch"


# ----------------------------------------------------------------------------------------------- classifier
def _head_rows(
    init_head: str, theirs: Sequence[str] | None, ours: Sequence[str] | None, source: str, remedy: str
) -> list[int] | None:
    """Which row of the checkpoint's classifier each class here takes; None takes them as they are."""
    if init_head.startswith("map:"):
        return head_map(init_head.removeprefix("map:"), ours)
    if not theirs or not ours or comparable(theirs) == comparable(ours):
        return None
    return _rows_by_name(theirs, ours, source, remedy)


def _rows_by_name(theirs: Sequence[str], ours: Sequence[str], source: str, remedy: str) -> list[int]:
    rows = {name: row for row, name in enumerate(comparable(theirs))}
    names = comparable(ours)
    if unknown := [visible(name) for name in names if name not in rows]:
        raise ClassesDiffer(
            f"{source}: its class names differ from the data's: it has no {first_few(unknown)} "
            f"({differences(theirs, ours)}). If they are the same classes, correct DATA.CLASS_NAMES. "
            f"{remedy or _NEW_OR_ROWS}"
        )
    return [rows[name] for name in names]


def head_map(spec: str, class_names: Sequence[str] | None = None) -> list[int]:
    """The rows that MODEL.INIT_HEAD map:SPEC takes from a checkpoint's classifier, one for each class here.

    Args:
        spec: a JSON list of row numbers; a JSON file with such a list; a text file (or JSON list) of the checkpoint's
            class names in its order; or the name of a published map in slowfast_uniformer/labels.
        class_names: the classes here, whose rows are taken where `spec` holds class names.

    Raises:
        UserError: naming the file or the class at fault.
    """
    if spec.lstrip().startswith("["):
        content, where = spec, "MODEL.INIT_HEAD map"
    else:
        known = {path.stem: path for path in MAPS.glob("*.json")}
        path = Path(spec) if os.path.isfile(spec) else known.get(spec)
        if path is None:
            raise UserError(
                f"MODEL.INIT_HEAD: map:{spec}: no such file or published map (these are {', '.join(sorted(known))})"
            )
        content, where = read_text(str(path), "MODEL.INIT_HEAD map"), str(path)
    try:
        entries = json.loads(content)
    except ValueError:
        if content.lstrip().startswith("["):
            raise UserError(f"{where}: not a valid JSON list; correct it") from None
        entries = {}
    if isinstance(entries, dict):  # of label to name or name to label, or text
        entries = read_class_names(where)
    if all(isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0 for entry in entries):
        return list(entries)
    if not all(isinstance(entry, str) for entry in entries):
        raise UserError(f"{where}: must hold either row numbers (0 or more) or class names")
    if not class_names:
        raise UserError(f"{where}: holds class names, but your data has none: set DATA.CLASS_NAMES")
    return _rows_by_name(entries, class_names, where, f"Otherwise correct {where}")


def _take_rows(value: Tensor, rows: list[int], name: str, source: str) -> Tensor:
    if max(rows) >= len(value):
        raise UserError(
            f"{source}: MODEL.INIT_HEAD takes row {max(rows)} of a classifier of {len(value)} "
            f"classes ({name}); this map is for another checkpoint"
        )
    return value[rows]


def _check_classes(own: Mapping, given: Mapping, heads: tuple[str, ...], source: str, remedy: str) -> None:
    for name in own:
        if name.startswith(heads) and name in given and given[name].shape[:1] != own[name].shape[:1]:
            raise ClassesDiffer(
                f"{source} has {counted(len(given[name]), 'class')}, but MODEL.NUM_CLASSES is {len(own[name])}. "
                f"{remedy or _NEW_OR_ROWS}"
            )


def _not_allowed(names: Sequence[str], allow: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)]


def _check_fit(faults: Mapping[str, list[str]], heads: tuple[str, ...], source: str, head_remedy: str) -> None:
    found = [f"{len(names)} {what} ({first_few(names)})" for what, names in faults.items() if names]
    if not found:
        return
    message = f"{source} does not match the model: {'; '.join(found)}"
    if faults["missing"] and all(name.startswith((*heads, _POOL)) for name in faults["missing"]):
        raise ClassesDiffer(f"{message}. {head_remedy or _NEW}")
    if any(name.startswith(_POOL) for name in faults["unexpected"]):
        raise UserError(f"{message}. It has an attentive head: set MODEL.HEAD attentive. {_NEW}")
    raise UserError(
        f"{message}. Set MODEL.MODEL_NAME and the keys of its section to those of the model that was trained"
    )
