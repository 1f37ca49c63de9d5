"""Weights from files into models: reading, inflating image kernels, and an account of what went where."""

import argparse
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from slowfast_uniformer.errors import UserError

# Keys under which checkpoints keep their tensors, the first that is there counting
_WRAPPERS = ("ema_state", "model_state", "model", "state_dict", "model_ema")
_ENDINGS = (".pth", ".pyth", ".pt", ".safetensors")


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a checkpoint, by name.

    `inflated` is a part of `loaded`; `missing` are the model's own that keep their values; `dropped` was left
    out on purpose; `fraction` of the model's parameters (by number of elements) were loaded.
    """

    loaded: list[str]
    inflated: list[str]
    missing: list[str]
    unexpected: list[str]
    dropped: list[str]
    fraction: float

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} tensors loaded ({self.fraction:.1%} of the parameters; {len(self.inflated)} "
            f"inflated), {len(self.missing)} left as they were, {len(self.dropped)} dropped"
        )


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


def find(name: str) -> str:
    """The file that MODEL.INIT_FROM means: a path, or a name in the folder $SLOWFAST_UNIFORMER_WEIGHTS.

    The name may lack its ending. Raises UserError if there is no such file.
    """
    folder = os.environ.get("SLOWFAST_UNIFORMER_WEIGHTS", "")
    candidates = [name] + [os.path.join(folder, name + ending) for ending in ("", *_ENDINGS) if folder]
    for path in candidates:
        if os.path.isfile(path):
            return path
    where = (
        f"in SLOWFAST_UNIFORMER_WEIGHTS ({folder})" if folder else "and SLOWFAST_UNIFORMER_WEIGHTS is unset"
    )
    raise UserError(
        f"no weights {name!r}: no such file, {where}. Put the file there, or name its path, "
        'or set MODEL.INIT_FROM "" to start from random weights'
    )


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The named tensors of a file of weights (.pth, .pt, .pyth, .safetensors; see `find`), on the CPU, and
    the plain values beside them: a run's `class_names`, `step` and `cfg`.

    Of a run's checkpoint the moving average is taken where there is one. Raises UserError if there is no such
    file, if it cannot be read without running code it holds, or if it holds no tensors.
    """
    path = find(name)
    content = _read_safetensors(path) if path.endswith(".safetensors") else _read_torch(path)
    about = content if isinstance(content, Mapping) else {}
    for key in _WRAPPERS:
        if isinstance(about.get(key), Mapping):
            content = about[key]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        held = _some(list(content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise UserError(f"{path}: holds {held} and no tensors by name, nor under {', '.join(_WRAPPERS)}")
    return tensors, {key: value for key, value in about.items() if key in ("class_names", "step", "cfg")}


def _read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error


def _read_torch(path: str) -> object:
    try:
        # Training scripts keep their arguments next to the weights as a Namespace, which is mere data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged files raise nearly anything
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed:
            raise UserError(
                f"{path}: holds a {needed[1]}, which only code named in the file could restore. If you trust "
                f"where it comes from, save the weights alone and use that file: "
                f"c = torch.load({path!r}, weights_only=False); torch.save(c['model'], 'weights.pth')"
            ) from error
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a checkpoint, or damaged ({reason}); fetch it again") from error


def load_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], *, init_head: str = "keep", source: str = "checkpoint"
) -> LoadReport:
    """Copy `tensors` into `model`, all or none; image kernels are inflated where the model has a time axis.

    Every name and shape must agree, but for two things: with `init_head` "new" the classifier
    (`model.classifier`) stays as it is, and image checkpoints may lack parameters with a part of
    `model.video_only` in their names. Raises UserError, naming `source` and the first names at fault.
    """
    own = model.state_dict()
    heads = tuple(f"{name}." for name in model.classifier)
    dropped = [name for name in tensors if init_head == "new" and name.startswith(heads)]
    given = {name: value for name, value in tensors.items() if name not in dropped}
    _check_classes(own, given, heads, source)
    fitted = {name: _fit(given[name], own[name].shape) for name in own if name in given}
    misshapen = [name for name, value in fitted.items() if value is None]
    inflated = [name for name, value in fitted.items() if value is not None and value.ndim > given[name].ndim]
    missing = [name for name in own if name not in given]
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    report = LoadReport(
        loaded=list(fitted),
        inflated=inflated,
        missing=missing,
        unexpected=[name for name in given if name not in own],
        dropped=dropped,
        fraction=sum(size for name, size in sizes.items() if name in fitted) / sum(sizes.values()),
    )
    optional = heads if init_head == "new" else ()
    video_only = getattr(model, "video_only", ()) if inflated else ()
    needed = [n for n in missing if not n.startswith(optional) and not any(part in n for part in video_only)]
    shapes = [f"{name}: {tuple(given[name].shape)} for {tuple(own[name].shape)}" for name in misshapen]
    _check_fit(needed, report.unexpected, shapes, heads, source)
    model.load_state_dict(fitted, strict=False)
    return report


def _fit(value: Tensor, shape: torch.Size) -> Tensor | None:
    if value.shape == shape:
        return value
    if len(shape) == 5 and value.shape == shape[:2] + shape[3:]:
        return inflate_weight(value, shape[2])
    return None


def _check_classes(own: Mapping, given: Mapping, heads: tuple[str, ...], source: str) -> None:
    for name in own:
        if name.startswith(heads) and name in given and given[name].shape[:1] != own[name].shape[:1]:
            raise UserError(
                f"{source} knows {len(given[name])} classes, but MODEL.NUM_CLASSES is {len(own[name])}. "
                "To start with a new classifier, set MODEL.INIT_HEAD new"
            )


def _check_fit(
    missing: list[str], unexpected: list[str], shapes: list[str], heads: tuple[str, ...], source: str
) -> None:
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    faults = [f"{len(names)} {what} ({_some(names)})" for what, names in found.items() if names]
    if not faults:
        return
    remedy = "MODEL.MODEL_NAME and its section must describe the model that was trained"
    if missing and all(name.startswith(heads) for name in missing):
        remedy = "to start with a new classifier, set MODEL.INIT_HEAD new"
    raise UserError(f"{source} does not fit the model: {'; '.join(faults)}; {remedy}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
