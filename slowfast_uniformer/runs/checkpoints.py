"""One save and one load for a run's checkpoints.

A checkpoint is a dict of plain values and tensors (read with `weights_only=True`): `model_state`,
`ema_state`, `optimizer_state` (by parameter names), `scaler_state`, `epoch` (epochs done), `seen` (videos
taken of the next), `step`, `best_top1`, `class_names`, `arithmetic` (of an image ViT, see
models/dialects.py), `cfg` and others (engine/run.py). It is one file or, where the model is sharded
(MODEL.PARALLEL fsdp), a folder that torch.distributed.checkpoint writes, each rank its parts. Where a run
starts from is decided in this order: own newest checkpoint (TRAIN.AUTO_RESUME), given checkpoint
(TRAIN.CHECKPOINT_FILE_PATH), initial weights (MODEL.INIT_FROM), scratch.
"""

import json
import logging
import os
import re
import shutil
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from slowfast_uniformer.distributed import collectives, topology
from slowfast_uniformer.errors import UserError

logger = logging.getLogger(__name__)
_NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?(\.pyth|\.dcp)$")
_PLAIN, _SUMS = "run.pth", "checksums.json"  # in a folder, beside the files of torch.distributed.checkpoint


def checkpoint_dir(output_dir: str) -> str:
    return os.path.join(output_dir, "checkpoints")


def checkpoint_path(output_dir: str, epoch: int, step: int | None = None, sharded: bool = False) -> str:
    """The checkpoint after `epoch` epochs, or after optimizer step `step` within the next."""
    within = "" if step is None else f"_step_{step:08d}"
    return os.path.join(checkpoint_dir(output_dir), f"epoch_{epoch:05d}{within}{'.dcp' if sharded else '.pyth'}")


def best_path(output_dir: str, sharded: bool = False) -> str:
    """The checkpoint of the best validation."""
    return os.path.join(checkpoint_dir(output_dir), "best.dcp" if sharded else "best.pyth")


def find_best(output_dir: str) -> str | None:
    """The last written checkpoint of the best validation, of either kind, or None."""
    paths = [best_path(output_dir, sharded) for sharded in (False, True)]
    return max(filter(os.path.exists, paths), key=os.path.getmtime, default=None)


def list_checkpoints(output_dir: str) -> list[str]:
    """A run's checkpoints, the one that is farthest on last; without the best and what is half written."""
    names = os.listdir(checkpoint_dir(output_dir)) if os.path.isdir(checkpoint_dir(output_dir)) else []
    found = [(int(m[1]), int(m[2] or -1), name) for name in names if (m := _NAME.fullmatch(name))]
    return [os.path.join(checkpoint_dir(output_dir), name) for *_, name in sorted(found)]


def latest(output_dir: str) -> str | None:
    """The checkpoint that is farthest on of those that are whole, or None; a damaged one is named and passed
    over."""
    for path in reversed(list_checkpoints(output_dir)):
        if not (fault := find_damage(path)):
            return path
        logger.warning("%s is damaged (%s): passing over it", path, fault)
    return None


def remove_temporary(output_dir: str) -> None:
    """Remove what an interrupted run has left half written."""
    names = os.listdir(checkpoint_dir(output_dir)) if os.path.isdir(checkpoint_dir(output_dir)) else []
    for name in names:
        if name.endswith(".tmp"):
            _remove(os.path.join(checkpoint_dir(output_dir), name))


def find_damage(path: str) -> str:
    """What is wrong with a checkpoint's bytes, by the checksums in it; an empty text if nothing."""
    try:
        if os.path.isdir(path):
            with open(os.path.join(path, _SUMS), encoding="utf-8") as file:
                sums = json.load(file)
            bad = next((name for name in sums if _checksum(os.path.join(path, name)) != sums[name]), None)
        else:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
    except Exception as error:  # damaged files raise nearly anything
        return str(error) or type(error).__name__
    return f"{bad} has another checksum" if bad else ""


def _checksum(path: str) -> int:
    total = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            total = zlib.crc32(block, total)
    return total


# -------------------------------------------------------------------------------------------------- writing
class CheckpointSaver:
    """Writes checkpoints beside the training, one at a time.

    `save` returns at once; the tensors are copied while the next step computes, and `staged` must be called
    before anything changes them. What cannot be written leaves a warning and the earlier checkpoints; only
    `finish` with `must` raises. `keep` of them are kept, 0 is all. `group` is for sharded states.
    """

    def __init__(self, output_dir: str, keep: int, group: Any = None):
        self.output_dir, self.keep, self.group = output_dir, keep, group
        self.waited = 0.0  # seconds that training waited, in all
        self.failed: str | None = None  # why the last one could not be written
        self._thread: threading.Thread | None = None
        self._staged = threading.Event()
        self._staged.set()

    def save(self, paths: list[str], state: dict[str, Any]) -> None:
        """Write `state` as paths[0]; the others become the same file. Tensors that the next forward pass
        changes must be copies already. All ranks call it where a state is sharded, else rank 0."""
        start = time.perf_counter()
        self.finish()
        self._staged.clear()
        self._thread = threading.Thread(target=self._work, args=(paths, state))
        self._thread.start()
        self.waited += time.perf_counter() - start

    def staged(self) -> None:
        """Wait until what is being saved has been copied."""
        if not self._staged.is_set():
            start = time.perf_counter()
            self._staged.wait()
            self.waited += time.perf_counter() - start

    def finish(self, must: bool = False) -> None:
        """Wait until everything is written. Raises UserError if the last could not be and it `must`."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if must and self.failed:
            raise UserError(f"{self.failed}. Free space, or set OUTPUT_DIR, and start again")

    def _work(self, paths: list[str], state: dict[str, Any]) -> None:
        start = time.perf_counter()
        try:
            try:
                state = _copied(state)
            finally:
                self._staged.set()
            write_checkpoint(paths[0], state, self.group)
            if topology.is_main():
                for other in paths[1:]:
                    _link(paths[0], other)
                self._prune()
            self.failed = None
            logger.info("wrote %s in %.1f s", paths[0], time.perf_counter() - start)
        except UserError as error:
            self.failed = str(error)
            logger.warning("%s. The run goes on; the checkpoints before it are kept", error)

    def _prune(self) -> None:
        for path in list_checkpoints(self.output_dir)[: -self.keep] if self.keep else []:
            _remove(path)


def _copied(value: Any) -> Any:
    """A copy of nested dicts and lists, tensors on the CPU (of a sharded one this rank's part)."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if hasattr(value, "full_tensor") else value.to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def write_checkpoint(path: str, state: dict[str, Any], group: Any = None) -> None:
    """Write beside, flush to the disk, rename: an interruption leaves the former file or the whole new one.
    UserError if it cannot be written, and then nothing is left of it."""
    beside = path + ".tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if group is None:
            _write_file(beside, state)
        else:
            _write_folder(beside, state, group)
        if topology.is_main():
            _rename(beside, path)
    except Exception as error:  # torch reports a full disk in several ways
        if topology.is_main():
            _remove(beside)
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot write the checkpoint {path}: {cause[0]}") from error


def _write_file(path: str, state: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)  # a zip archive, with a checksum of each tensor
        file.flush()
        os.fsync(file.fileno())


def _write_folder(path: str, state: dict[str, Any], group: Any) -> None:
    """Every rank writes its parts; rank 0 also the plain values and the checksums."""
    import torch.distributed.checkpoint as dcp

    tensors = dict(_leaves(state))
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(path), process_group=group)
    own = [name for name in os.listdir(path) if name.startswith(f"__{topology.rank()}_")]
    if topology.is_main():
        _write_file(os.path.join(path, _PLAIN), _without(state))
        own += [_PLAIN, ".metadata"]
    sums = {name: _checksum(os.path.join(path, name)) for name in own}
    everywhere = collectives.all_gather_objects(sums, group)
    if topology.is_main():
        with open(os.path.join(path, _SUMS), "w", encoding="utf-8") as file:
            json.dump({name: value for part in everywhere for name, value in part.items()}, file)
            file.flush()
            os.fsync(file.fileno())


def _leaves(state: Mapping, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dicts, by their keys with slashes between."""
    for key, value in state.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")


def _without(state: Mapping) -> dict:
    """Nested dicts without their tensors."""
    kept = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
    return {key: _without(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def _rename(beside: str, path: str) -> None:
    if os.path.isdir(path):  # a folder cannot be replaced
        _remove(path)
    os.replace(beside, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _link(path: str, other: str) -> None:
    """Make `other` the same as `path`, without a second copy where the file system can."""
    beside = other + ".tmp"
    _remove(beside)
    try:
        if os.path.isdir(path):
            shutil.copytree(path, beside, copy_function=_link_file)
        else:
            _link_file(path, beside)
        _rename(beside, other)
    except OSError as error:
        _remove(beside)
        raise UserError(f"cannot write the checkpoint {other}: {error.strerror}") from None


def _link_file(path: str, other: str) -> None:
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.exists(path):
        os.remove(path)


# -------------------------------------------------------------------------------------------------- reading
def load_checkpoint(path: str, own: Mapping[str, Tensor] | None = None, tensors: bool = True) -> dict[str, Any]:
    """Read a run's checkpoint onto the CPU; of a folder only the parts that this rank holds of its `own`
    tensors by parameter name, if they are sharded. Without `tensors` only the plain values are sure to be
    there. UserError for a missing, damaged or foreign one."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such checkpoint")
    try:
        state = _read_folder(path, own or {}, tensors) if os.path.isdir(path) else _read_file(path)
    except Exception as error:  # a damaged file raises whatever its bytes happen to trigger
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({cause}); remove it to use the one before") from None
    if not isinstance(state, dict) or not {"model_state", "optimizer_state", "epoch"} <= state.keys():
        raise UserError(
            f"{path}: not a checkpoint of a run of this program; to start from weights, set MODEL.INIT_FROM"
        )
    return state


def _read_file(path: str) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _read_folder(path: str, own: Mapping[str, Tensor], with_tensors: bool) -> dict[str, Any]:
    import torch.distributed.checkpoint as dcp

    state = _read_file(os.path.join(path, _PLAIN))
    if not with_tensors:
        return state
    reader = dcp.FileSystemReader(path)
    tensors: dict[str, Tensor] = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        like = next((own[part] for part in key.split("/") if part in own), None)
        if hasattr(like, "full_tensor") and like.shape == entry.size:
            tensors[key] = torch.zeros_like(like, dtype=entry.properties.dtype)
        else:
            tensors[key] = torch.empty(entry.size, dtype=entry.properties.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what is meant: ranks need not read at the same time
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    for key, value in tensors.items():
        *parents, name = key.split("/")
        node = state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return state
