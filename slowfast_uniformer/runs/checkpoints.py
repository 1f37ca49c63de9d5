"""Writing and reading a run's checkpoints.

A checkpoint is a dict of tensors and values of Python's own types (loaded with `weights_only=True`): `model_state`,
`ema_state`, `optimizer_state` (by parameter name), `scaler_state`, `epoch` (epochs done), `seen` (videos of the next
epoch that were used), `step` (optimizer steps), `best_top1`, `class_names`, `arithmetic` (the ViT variant, see
weights/formats.py), `cfg` and others (engine/state.py). It is one .pyth file or, where the model is sharded
(MODEL.PARALLEL fsdp), a .dcp folder that torch.distributed.checkpoint writes, each rank its shards.

A run starts from the first of these: its own latest checkpoint (TRAIN.AUTO_RESUME), the given checkpoint
(TRAIN.CHECKPOINT_FILE_PATH), initial weights (MODEL.INIT_FROM), random weights. runs/begin.py keeps the checkpoints of
two runs in one folder apart.
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
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.distributed import collectives, topology
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_path, atomic_write, flush_to_disk, is_utf_8
from slowfast_uniformer.runs.folder import run_config
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.runs.published import WEIGHTS, is_published

logger = logging.getLogger(__name__)
_NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?(\.pyth|\.dcp)$")
_TEMPORARY = re.compile(r"\.\d+\..*|.*\.tmp")  # of `paths.atomic_path`, and of folders (`_atomic_folder`)
_VALUES, _CHECKSUMS = "run.pth", "checksums.json"  # in a .dcp folder, beside torch.distributed.checkpoint's files


def checkpoint_dir(output_dir: str) -> str:
    """The folder of a run's checkpoints."""
    return os.path.join(output_dir, "checkpoints")


def checkpoint_path(output_dir: str, epoch: int, step: int | None = None, sharded: bool = False) -> str:
    """The checkpoint after `epoch` epochs, or after optimizer step `step` within the next epoch."""
    within = "" if step is None else f"_step_{step:08d}"
    return os.path.join(checkpoint_dir(output_dir), f"epoch_{epoch:05d}{within}{'.dcp' if sharded else '.pyth'}")


def best_path(output_dir: str, sharded: bool = False) -> str:
    """The checkpoint of the best validation."""
    return os.path.join(checkpoint_dir(output_dir), "best.dcp" if sharded else "best.pyth")


def find_best(output_dir: str) -> str | None:
    """The checkpoint of the best validation, file or folder (the newer of both), or None."""
    paths = [best_path(output_dir, sharded) for sharded in (False, True)]
    return max(filter(os.path.exists, paths), key=os.path.getmtime, default=None)


def find_tested(output_dir: str, best: bool | None = None) -> str | None:
    """The checkpoint that the test of a run takes: the best one with TEST.TEST_BEST, else the latest.

    Where there is only one of both, it is that one. A run's folder means this checkpoint to every command, so that the
    model that is used is the one whose score the run shows.

    Args:
        output_dir: the run's folder.
        best: TEST.TEST_BEST; None reads it from the folder's config, or else from the config in its latest checkpoint.

    Returns:
        The path of the checkpoint; None where the folder holds none.
    """
    if best is None:
        try:
            config = run_config(output_dir)
        except UserError as error:
            logger.warning("%s. The config in the latest checkpoint is used", str(error).rstrip("."))
            config = {}
        best = bool((config or _config_in_checkpoint(output_dir)).get("TEST.TEST_BEST"))
    return (best and find_best(output_dir)) or latest(output_dir) or find_best(output_dir)


def _config_in_checkpoint(output_dir: str) -> dict[str, Any]:
    """The config in the latest checkpoint of a run, by dotted key; {} where there is none."""
    path = next(reversed(list_checkpoints(output_dir)), None) or find_best(output_dir)
    try:
        return dict(flatten(load_checkpoint(path, only=()).get("cfg") or {})) if path else {}
    except UserError:  # damaged, which `latest` reports
        return {}


def find_checkpoint(path: str, resume: bool = False) -> str:
    """The checkpoint of a run's folder (`find_tested`), the weights of a published one; any other path as it is.

    Args:
        resume: of a run's folder the latest, from which a run is continued.

    Raises:
        UserError: the folder holds no checkpoint.
    """
    if not os.path.isdir(path) or path.endswith(".dcp"):
        return path
    if is_published(path):  # first, as a published folder is not read from a pickle that lies in it
        return os.path.join(path, WEIGHTS)
    if found := latest(path) if resume else find_tested(path):
        return found
    before = [name for name in sorted(os.listdir(path)) if list_checkpoints(os.path.join(path, name))]
    where = f", but its folders {', '.join(before)} have some" if before else ""
    raise UserError(f"{path}: this folder has no checkpoints{where}; name a run's folder (its OUTPUT_DIR) or a file")


def _names(output_dir: str) -> list[str]:
    return os.listdir(checkpoint_dir(output_dir)) if os.path.isdir(checkpoint_dir(output_dir)) else []


def list_checkpoints(output_dir: str) -> list[str]:
    """A run's checkpoints by epoch and step, the latest last; without the best and temporary files."""
    found = filter(_NAME.fullmatch, sorted(_names(output_dir)))
    return [os.path.join(checkpoint_dir(output_dir), name) for name in sorted(found, key=_position)]


def _position(path: str) -> tuple[int, int]:
    """Epoch, and step within it or else -1, of a checkpoint; of the best (-1, -1)."""
    match = _NAME.search(path)
    return (int(match[1]), int(match[2] or -1)) if match else (-1, -1)


def latest(output_dir: str) -> str | None:
    """The latest undamaged checkpoint, or None. Damaged ones are skipped with a warning."""
    path, damaged = latest_undamaged(output_dir)
    for message in damaged:
        logger.warning("%s", message)
    return path


def latest_undamaged(output_dir: str) -> tuple[str | None, list[str]]:
    """The latest undamaged checkpoint, or None, and a message on each later one."""
    messages: list[str] = []
    for path in reversed(list_checkpoints(output_dir)):
        with Phase(f"check {path}"):
            damage = find_damage(path)
        if not damage:
            return path, messages
        messages.append(f"{path} is damaged ({damage}) and is skipped")
    return None, messages


def remove_temporary(output_dir: str) -> None:
    """Remove the temporary files of checkpoints that an interrupted run did not finish."""
    for name in filter(_TEMPORARY.fullmatch, _names(output_dir)):
        try:
            _remove(os.path.join(checkpoint_dir(output_dir), name))
        except OSError as error:  # another program's file, or a stale entry of a network file system
            logger.warning("cannot remove the temporary file %s: %s", name, error.strerror)


def find_damage(path: str) -> str:
    """What is wrong with a checkpoint's bytes, by the checksums in it; an empty string if nothing."""
    try:
        if os.path.isdir(path):
            with open(os.path.join(path, _CHECKSUMS), encoding="utf-8") as file:
                checksums = json.load(file)
            bad = next((name for name in checksums if _checksum(os.path.join(path, name)) != checksums[name]), None)
        else:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
    except Exception as error:  # damaged files raise nearly anything
        return _incomplete(path) or str(error) or type(error).__name__
    return f"{bad} has a wrong checksum" if bad else ""


def _incomplete(path: str) -> str:
    """What is wrong with a file that is not a complete archive of `torch.save`, or ""."""
    return "its end is missing" if os.path.isfile(path) and not zipfile.is_zipfile(path) else ""


def _checksum(path: str) -> int:
    total = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            total = zlib.crc32(block, total)
    return total


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def _cause(error: Exception) -> str:
    """The type of an exception and the first line of its message: the message of a KeyError alone says nothing."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].removesuffix(": ")


# -------------------------------------------------------------------------------------------------- writing
class CheckpointSaver:
    """Writes checkpoints in a background thread, one at a time.

    `save` returns at once. Tensors are copied while the next step computes; `wait_staged` must be called before
    anything changes them. A checkpoint that cannot be written is a warning, and the earlier ones stay; only
    `finish(raise_on_failure=True)` raises.

    Args:
        output_dir: the run's folder.
        keep: how many checkpoints are kept besides the best; 0 keeps all.
        group: process group of a sharded state, for collectives of the background thread; else None.

    Attributes:
        waited: seconds that training waited for checkpoints, in all.
        failed: why the last checkpoint could not be written, or None.
    """

    def __init__(self, output_dir: str, keep: int, group: Any = None):
        self.output_dir, self.keep, self.group = output_dir, keep, group
        self.waited = 0.0
        self.failed: str | None = None
        self._thread: threading.Thread | None = None
        self._staged = threading.Event()
        self._staged.set()

    def save(self, paths: list[str], state: dict[str, Any]) -> None:
        """Write `state` as paths[0]; the other paths become links to it, or copies.

        Tensors that the next forward pass changes (buffers) must be copies already. Called by all ranks if the state is
        sharded, else by rank 0.
        """
        start = time.perf_counter()
        self.finish()
        self._staged.clear()
        self._thread = threading.Thread(target=self._write, args=(paths, state))
        self._thread.start()
        self.waited += time.perf_counter() - start

    def wait_staged(self) -> None:
        """Wait until the state that is being saved has been copied."""
        start = time.perf_counter()
        self._staged.wait()
        self.waited += time.perf_counter() - start

    def finish(self, raise_on_failure: bool = False) -> None:
        """Wait until everything is written.

        Raises:
            UserError: the last checkpoint could not be written, with `raise_on_failure`.
        """
        if self._thread:
            with Phase("write the checkpoint"):
                self._thread.join()
            self._thread = None
        if raise_on_failure and self.failed:
            elsewhere = "set OUTPUT_DIR to another disk"
            if list_checkpoints(self.output_dir):
                elsewhere += f" and TRAIN.CHECKPOINT_FILE_PATH {self.output_dir}"
            raise UserError(f"{self.failed}. Free disk space or memory, or {elsewhere}, and start again")

    def _write(self, paths: list[str], state: dict[str, Any]) -> None:
        """The background thread. No exception may end it unnoticed: `finish` reports what `failed` says."""
        start = time.perf_counter()
        try:
            with _faults_on_all_ranks(self.group):  # MemoryError above all
                try:
                    copied = _copy_to_cpu(state)
                finally:
                    self._staged.set()
            write_checkpoint(paths[0], copied, self.group)
            for other in paths[1:] if topology.is_main() else ():
                _link(paths[0], other)
            self.failed = None
            logger.info("wrote %s in %.1f s", paths[0], time.perf_counter() - start)
        except Exception as error:
            known = isinstance(error, UserError)
            self.failed = str(error) if known else f"cannot write the checkpoint {', '.join(paths)}: {_cause(error)}"
            logger.warning("%s. Training continues; the earlier checkpoints are kept", self.failed)
            return
        if not self.keep or not topology.is_main():
            return
        try:
            # Later ones are damaged, and were skipped when the run was continued: they would count as the latest
            done = [old for old in list_checkpoints(self.output_dir) if _position(old) <= _position(paths[0])]
            for old in done[: -self.keep]:
                _remove(old)
        except Exception as error:
            logger.warning("cannot remove old checkpoints (TRAIN.KEEP_CHECKPOINTS): %s", error)


@contextmanager
def _faults_on_all_ranks(group: Any) -> Iterator[None]:
    """Raise on every rank what the block raises on one: the others would wait for it in the next collective."""
    fault = ""
    try:
        yield
    except Exception as error:
        fault = _cause(error)
    faults = [fault] if group is None else collectives.all_gather_objects(fault, group)
    if any(faults):
        raise RuntimeError(next(filter(None, faults)))


def _copy_to_cpu(value: Any) -> Any:
    """A copy of nested dicts and lists with tensors on the CPU (of a sharded one the local shard, where it is)."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if hasattr(value, "full_tensor") else value.to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy_to_cpu(item) for key, item in value.items()}
    return [_copy_to_cpu(item) for item in value] if isinstance(value, list) else value


def write_checkpoint(path: str, state: dict[str, Any], group: Any = None) -> None:
    """Write a checkpoint, atomically: an interruption leaves the former one or the new one, whole and on the disk.

    Args:
        path: the file to write, or with `group` the folder.
        state: nested dicts of tensors and values; with `group` some tensors are sharded (DTensor).
        group: process group whose ranks all write their shards, or None for a file.

    Raises:
        UserError: it cannot be written; no temporary file is left.
    """
    try:
        if group is None:
            with atomic_path(path, durable=True) as temporary:
                _write_file(temporary, state)
        else:
            with _atomic_folder(path) as temporary:
                _write_folder(temporary, state, group)
    except Exception as error:  # torch reports a full disk in several ways
        raise UserError(f"cannot write the checkpoint {path}: {_cause(error)}") from error


def _write_file(path: str, state: dict[str, Any]) -> None:
    with open(path, "wb") as file:  # by path, torch would store its name in the archive
        torch.save(state, file)  # a zip archive, with a checksum of each tensor


def _write_folder(path: str, state: dict[str, Any], group: Any) -> None:
    """Every rank writes its shards; rank 0 also all that is no tensor, and the checksums."""
    import torch.distributed.checkpoint as dcp

    tensors: dict[str, Tensor] = {}
    values = _split(state, tensors)
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(path), process_group=group)
    with _faults_on_all_ranks(group):
        names = [name for name in os.listdir(path) if name.startswith(f"__{topology.rank()}_")]
        if topology.is_main():
            _write_file(os.path.join(path, _VALUES), values)
            flush_to_disk(os.path.join(path, _VALUES))
            names += [_VALUES, ".metadata"]
        written = {name: _checksum(os.path.join(path, name)) for name in names}
    checksums = {name: value for part in collectives.all_gather_objects(written, group) for name, value in part.items()}
    if topology.is_main():
        atomic_write(os.path.join(path, _CHECKSUMS), json.dumps(checksums), durable=True)


def _split(state: Mapping, tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """Nested dicts without their tensors, which are added to `tensors` by their keys joined with slashes."""
    values = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        else:
            values[key] = _split(value, tensors, f"{prefix}{key}/") if isinstance(value, Mapping) else value
    return values


@contextmanager
def _atomic_folder(path: str) -> Iterator[str]:
    """As `paths.atomic_path`, for a folder that all ranks write to: its temporary name is the same on all ranks."""
    temporary = path + ".tmp"
    try:
        yield temporary
        if topology.is_main():
            shutil.rmtree(path, ignore_errors=True)  # a folder cannot be replaced
            os.replace(temporary, path)
            flush_to_disk(os.path.dirname(path))
    finally:
        if topology.is_main():
            shutil.rmtree(temporary, ignore_errors=True)


def _link(path: str, other: str) -> None:
    """Make `other` the same as `path`, without a second copy where the file system has hard links."""
    if os.path.isdir(path):
        with _atomic_folder(other) as temporary:
            shutil.copytree(path, temporary, copy_function=_link_file, dirs_exist_ok=True)
    else:
        with atomic_path(other, durable=True) as temporary:
            _link_file(path, temporary)


def _link_file(path: str, other: str) -> None:
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


# -------------------------------------------------------------------------------------------------- reading
def load_checkpoint(
    path: str, own: Mapping[str, Tensor] | None = None, only: Collection[str] | None = None
) -> dict[str, Any]:
    """Read a run's checkpoint onto the CPU.

    Args:
        path: a .pyth file or .dcp folder.
        own: this rank's parameters by name; of a folder, only the shards that this rank holds of them are read.
        only: top-level keys (`model_state`, ...) whose tensors are needed. Of a folder, other tensors are not read; a
            file is memory-mapped and read when a tensor is used. None is all keys. Values that are no tensors are
            always there.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is no checkpoint of a run.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such checkpoint")
    try:
        if path.endswith(".safetensors"):  # weights alone
            state = {}
        else:
            state = _read_folder(path, own or {}, only) if os.path.isdir(path) else _read_file(path)
    except Exception as error:  # a damaged file raises whatever its bytes happen to trigger
        raise UserError(
            f"{path}: not a readable checkpoint ({_incomplete(path) or _cause(error)}); choose another one of its run. "
            "If you remove this one, TRAIN.AUTO_RESUME True continues from the one before"
        ) from None
    if not isinstance(state, dict) or not {"model_state", "optimizer_state", "epoch"} <= state.keys():
        raise UserError(
            f"{path}: not a training checkpoint of this program. To start from its weights, set MODEL.INIT_FROM to "
            'it, and TRAIN.CHECKPOINT_FILE_PATH ""'
        )
    return state


def _read_file(path: str) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_utf_8(path))


def _read_folder(path: str, own: Mapping[str, Tensor], only: Collection[str] | None) -> dict[str, Any]:
    state = _read_file(os.path.join(path, _VALUES))
    if only is not None and not only:
        return state
    import torch.distributed.checkpoint as dcp

    reader = dcp.FileSystemReader(path)
    tensors: dict[str, Tensor] = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        names = key.split("/")
        if only is not None and names[0] not in only:
            continue
        like = next((own[name] for name in names if name in own), None)
        if hasattr(like, "full_tensor") and like.shape == entry.size:
            tensors[key] = torch.zeros_like(like, dtype=entry.properties.dtype)
        else:
            tensors[key] = torch.empty(entry.size, dtype=entry.properties.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that ranks read independently of each other, which is intended
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    for key, value in tensors.items():
        *parents, name = key.split("/")
        node = state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return state
