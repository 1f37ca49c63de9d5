"""Files of weights: found by path or name, read without running any code they hold."""

import argparse
import collections
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.registry import find_weights

# Keys under which checkpoints keep their tensors, the first that is there counting
_WRAPPERS = ("ema_state", "model_state", "model", "state_dict", "model_ema", "teacher", "module")
_PREFIXES = ("module.", "_orig_mod.")  # what wrappers of PyTorch put before every name
BESIDE = ("class_names", "step", "cfg", "arithmetic", "image")  # what a run tells about its weights


def read_tensors(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The named tensors of a file of weights (see `find`), on the CPU, and the plain values beside them.

    Reads .safetensors, what torch.save writes (.pth, .pt, .pyth, .bin) and TorchScript archives. Of a run's
    checkpoint the moving average is taken where there is one; prefixes that wrappers add to all names are
    removed. Raises UserError if there is no such file, if it cannot be read without running code it holds, or
    if it holds no tensors.
    """
    path = find_weights(name)
    if path.endswith(".safetensors"):
        content = _read_safetensors(path)
    elif os.path.isdir(path):
        content = checkpoints.load_checkpoint(path)
    elif _is_torchscript(path):
        content = _read_torchscript(path)
    else:
        content = _read_torch(path)
    about = content if isinstance(content, Mapping) else {}
    for key in _WRAPPERS:
        if isinstance(about.get(key), Mapping):
            content = about[key]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        held = _some(content) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise UserError(f"{path}: holds {held} and no tensors by name, nor under {', '.join(_WRAPPERS)}")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, {key: about[key] for key in BESIDE if about.get(key) is not None}


def _some(content: Mapping) -> str:
    return ", ".join(map(str, list(content)[:3])) + (", ..." if len(content) > 3 else "")


def _read_safetensors(path: str) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            beside = (file.metadata() or {}).get("slowfast_uniformer", "{}")
            return {"model": {name: file.get_tensor(name) for name in file.keys()}, **json.loads(beside)}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
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


def _is_torchscript(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: str) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by attribute path; its code is neither compiled nor run."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).split("/")[0]
            return dict(_tensors_in(_Unpickler(archive, root).load()))
    except (zipfile.BadZipFile, pickle.UnpicklingError, KeyError, ValueError, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: a TorchScript archive that cannot be read ({error}); fetch it again") from error


class _Module:
    """Stands in for a scripted module: its attributes, without its methods."""


def _tensors_in(module: _Module, prefix: str = "") -> collections.abc.Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors_in(value, f"{prefix}{name}.")


_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class _Unpickler(pickle.Unpickler):
    """Restores a TorchScript archive's attributes; nothing but tensors and stand-ins can come of it."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle":
            return lambda values, *_: values
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, _, count = pid
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
