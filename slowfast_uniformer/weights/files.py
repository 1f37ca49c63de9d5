"""Reading weight files. Nothing that a file holds is executed, imported or fetched."""

import argparse
import collections
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slowfast_uniformer import paths
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints, published
from slowfast_uniformer.weights.resolve import find_weights, warn_if_unlike_published

# Keys under which checkpoints keep their tensors; the first one present counts
_STATE_KEYS = ("ema_state", "model_state", "model", "state_dict", "model_ema", "teacher", "module")
_PREFIXES = ("module.", "_orig_mod.")  # that DistributedDataParallel and torch.compile put before every name
# What a checkpoint says about its weights, and the type a value must have. SlowFast's own checkpoints hold their config
# as a text: as all other values of another type, it is ignored.
METADATA_KEYS = {"class_names": list, "step": int, "cfg": dict, "arithmetic": dict, "image": bool, "temperature": float}


def read_tensors(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the named tensors of a weight file and the metadata beside them, of a published folder those in its files.

    Reads .safetensors, files of torch.save (.pth, .pt, .pyth, .bin), TorchScript archives (tensors only, their code is
    not loaded), Keras 2's .h5 files and .dcp folders. Of a run's checkpoint the EMA weights are taken where there are
    any; prefixes that wrappers add to all names are removed.

    Args:
        name: a path, name or address (see `resolve.resolve`).

    Returns:
        Tensors by name, on the CPU, and those of `METADATA_KEYS` that the file holds.

    Raises:
        UserError: there is no such file, it cannot be read without executing code it holds, or it holds no tensors.
    """
    path = find_weights(name)
    warn_if_unlike_published(path)
    if path.endswith(".safetensors"):
        content = _read_safetensors(path)
    elif os.path.isdir(path):
        averaged = checkpoints.load_checkpoint(path, only=()).get("ema_state") is not None
        content = checkpoints.load_checkpoint(path, only=["ema_state" if averaged else "model_state"])
    elif _is_hdf5(path):
        content = _read_keras(path)
    elif root := _torchscript_root(path):
        content = _read_torchscript(path, root)
    else:
        content = _read_torch(path)
    content = content if isinstance(content, Mapping) else {f"a {type(content).__name__}": None}
    state = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{path}: not a file of weights: it holds {first_few(state)}, and no tensors by name or under "
            f"{', '.join(_STATE_KEYS)}"
        )
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors, {key: content[key] for key, kind in METADATA_KEYS.items() if isinstance(content.get(key), kind)}


def first_few(names: Iterable) -> str:
    """The first three of some names, for error messages."""
    names = list(map(str, names))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read_safetensors(path: str) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("slowfast_uniformer", "{}"))
            content = {"model": {name: file.get_tensor(name) for name in file.keys()}, **metadata}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({error}); name another file, or download it again"
        ) from error
    folder, name = os.path.split(path)
    if name == published.WEIGHTS and metadata and published.is_published(folder):
        content |= published.read_published(folder)
    return content


def _read_torch(path: str) -> object:
    try:
        # Training scripts keep their arguments next to the weights as a Namespace, which holds only values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            mmap = zipfile.is_zipfile(path) and paths.is_utf_8(path)  # torch maps files of such names only
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged files raise nearly anything
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed:
            raise UserError(
                f"{path}: holds a {needed[1]}, which only code that the file names could restore. If you trust "
                f"the file, save its weights alone and use the new file: "
                f"c = torch.load({path!r}, weights_only=False); torch.save(c['model'], 'weights.pth')"
            ) from error
        with open(path, "rb") as file:  # PyTorch's reasons are of no help for a file that it has not written
            is_torch = file.read(2) in (b"PK", b"\x80\x02")
        reason = re.split(r"\. |\n", str(error))[0] if is_torch else "torch.save has not written it"
        raise UserError(f"{path}: not a checkpoint, or damaged ({reason}); name another file") from error


# ------------------------------------------------------------------------------------------------ Keras
def _is_hdf5(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _read_keras(path: str) -> dict[str, Tensor]:
    """The tensors of a file of Keras 2's `save_weights` or `save`, by path in it, in the order Keras loads them."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path}: reading a Keras file needs h5py: pip install 'slowfast_uniformer[keras]'") from None
    tensors = {}
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)  # `save` keeps the weights beside the model
            for layer in (*_keras_names(root, "layer_names"), "top_level_model_weights"):
                for name in _keras_names(root[layer], "weight_names") if layer in root else ():
                    dataset = root[layer][name]
                    if dataset.file != file or dataset.external or dataset.is_virtual:
                        raise ValueError(f"{layer}/{name} is in another file")
                    tensors[f"{layer}/{name}"] = torch.as_tensor(dataset[()])
    except Exception as error:  # damaged files raise nearly anything
        raise UserError(f"{path}: this HDF5 file cannot be read ({error}); download it again") from error
    if not tensors:
        raise UserError(f"{path}: no weight_names in this HDF5 file; write it with Keras 2's model.save_weights")
    return tensors


def _keras_names(group: Any, key: str) -> list[str]:
    """A list of names beside a group of an HDF5 file, which Keras splits into key0, key1... above 64 KiB."""
    keys = [key, *(f"{key}{index}" for index in range(len(group.attrs)))]
    names = [name for each in keys for name in group.attrs.get(each, ())]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


# ------------------------------------------------------------------------------------------------ TorchScript
def _torchscript_root(path: str) -> str | None:
    """The top folder in a TorchScript archive; None for other files."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return next((name.split("/")[0] for name in archive.namelist() if name.endswith("/constants.pkl")), None)


def _read_torchscript(path: str, root: str) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by attribute path; its code is neither compiled nor executed."""
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(_tensors_in(_Unpickler(archive, root).load()))
    except (zipfile.BadZipFile, pickle.UnpicklingError, KeyError, ValueError, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: this TorchScript archive cannot be read ({error}); download it again") from error


class _Module:
    """Stands in for a scripted module: its attributes, without its methods."""


def _tensors_in(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors_in(value, f"{prefix}{name}.")


_DTYPES = ("float", "half", "bfloat16", "double", "long", "int", "bool")  # torch.float of a FloatStorage and so on


class _Unpickler(pickle.Unpickler):
    """Restores a TorchScript archive's attributes as tensors and `_Module`s, and refuses every other class."""

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
        dtype = name.removesuffix("Storage").lower()
        if module == "torch" and name.endswith("Storage") and dtype in _DTYPES:
            return getattr(torch, dtype)
        if module == "torch.jit._pickle":
            return lambda values, *_: values
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, _, count = pid
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
