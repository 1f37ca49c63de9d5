"""From what MODEL.INIT_FROM says to a file: a path, a published checkpoint's name, or an address; fetched if need be.

Imports no PyTorch: commands fetch weights before they load it.
"""

import errno
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from slowfast_uniformer import paths
from slowfast_uniformer.config.recipes import labels_folder
from slowfast_uniformer.data.classes import read_class_names
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_write
from slowfast_uniformer.runs import published
from slowfast_uniformer.runs.log import Phase, write_line
from slowfast_uniformer.weights import download
from slowfast_uniformer.weights.cache import cache_folder, find_cached, record_path, with_recorded_hash, write_record
from slowfast_uniformer.weights.registry import (
    ENDINGS,
    Checkpoint,
    Source,
    find_checkpoint,
    similar_names,
    sources_of_file,
)

FOLDER = "SLOWFAST_UNIFORMER_WEIGHTS"
_OFFLINE = ("SLOWFAST_UNIFORMER_OFFLINE", "HF_HUB_OFFLINE")
_QUICKLY_READ = 256 << 20  # bytes that are hashed in a second
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems without them


@dataclass(frozen=True)
class Found:
    """A file of weights that is here.

    Attributes:
        path: the file, .dcp folder or checkpoint.
        checkpoint: the published checkpoint that it is; None for others.
        source: whose file it is, which may be another format and order of classes than the release's; None where the
            file's name does not tell.
    """

    path: str
    checkpoint: Checkpoint | None = None
    source: Source | None = None

    @property
    def classes(self) -> str:
        """The list in datasets/labels, without ".txt", in whose order its classifier's rows are; "" if not known."""
        own = self.source.classes if self.source else ""
        return own or (self.checkpoint.classes if self.checkpoint else "")

    @property
    def classes_certain(self) -> bool:
        """Whether that order was checked, or comes with the file; see `Checkpoint`."""
        return bool(self.source and self.source.classes) or bool(self.checkpoint and self.checkpoint.classes_certain)

    @property
    def class_names(self) -> list[str] | None:
        """The names of its classes in that order; None if not known."""
        return read_class_names(str(labels_folder() / f"{self.classes}.txt")) if self.classes else None


def find_weights(name: str) -> str:
    """The local file that MODEL.INIT_FROM means; see `resolve`."""
    return resolve(name).path


def resolve(name: str, timeout: float = download.TIMEOUT) -> Found:
    """Find the file that MODEL.INIT_FROM means, and fetch it if it is a published one that is not here.

    Args:
        name: a path (of a file, a .dcp folder, or a run's folder, which means the checkpoint that its own test takes,
            see `checkpoints.find_tested`); a name in the folder $SLOWFAST_UNIFORMER_WEIGHTS, with or without its
            ending; a published checkpoint's name, or a recipe's, which means its released checkpoint (see
            `registry.find_checkpoint`); hf://USER/REPO[@REVISION]/FILE; or an address (https://, or what is registered
            with iopath's `g_pathmgr`).
        timeout: seconds without a byte after which a source is given up.

    Raises:
        UserError: there is no such file, or no source gives it: one message with each source and its reason.
    """
    if name.startswith("hf://"):
        return Found(_from_hub(name, timeout))
    if name.startswith(("https://", "http://")):
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        file = re.sub(r"[^\w.+-]", "_", re.split("[?#]", name)[0].rsplit("/", 1)[1]).lstrip(".") or "weights"
        source = Source("https", name, "address", True, file)
        return _obtain(name, (source,), os.path.join(cache_folder(), "addresses", key), timeout)
    if "://" in name:
        return Found(paths.fetch(name))
    checkpoint = find_checkpoint(name)
    if found := _given(name, checkpoint):
        return found
    if checkpoint is None:
        raise UserError(_no_such_weights(name))
    if not checkpoint.sources:
        raise UserError(f"{checkpoint.name}: {checkpoint.note}. Name other weights (`uniformer weights list`)")
    return _obtain(checkpoint.name, checkpoint.sources, cache_folder(), timeout, checkpoint)


def is_here(name: str) -> bool:
    """Whether the weights that a name means are on this machine; nothing is fetched. Addresses are taken to be.

    Raises:
        UserError: as `resolve`, where they are not here and cannot be fetched.
    """
    checkpoint = find_checkpoint(name)
    if "://" in name or _given(name, checkpoint) or (checkpoint and find_cached(checkpoint.sources, cache_folder())):
        return True
    if checkpoint is None or not checkpoint.sources or offline():
        resolve(name)
    return False


def local_file(checkpoint: Checkpoint) -> Found | None:
    """The file of a published checkpoint that is here, in $SLOWFAST_UNIFORMER_WEIGHTS or in the cache; else None.

    Nothing is fetched or checked.
    """
    if found := _in_folder(checkpoint.name, checkpoint):
        return found
    for source in checkpoint.sources:
        if os.path.isfile(path := os.path.join(cache_folder(), source.file)):
            return Found(path, checkpoint, source)
    return None


def offline() -> str:
    """The variable that forbids downloads, or ""."""
    values = {name: os.environ.get(name, "") for name in _OFFLINE}
    return next((name for name, value in values.items() if value.lower() not in ("", "0", "false", "no", "off")), "")


# ----------------------------------------------------------------------------------------------- what is here
def unlike_published(path: str, hashed: bool = False) -> str:
    """What is wrong with a file that has the name of a published one, by that one's size; "" if nothing.

    Args:
        path: any path; a file of another name, or a folder, cannot be compared.
        hashed: compare the hash, too, which reads the file.
    """
    faults = []
    for source in sources_of_file(os.path.basename(path)) if os.path.isfile(path) else ():
        faults.append(download.find_fault(path, source)[0] if hashed else download.wrong_size(path, source))
    return faults[0] if faults and all(faults) else ""


def fault_of_copy(path: str) -> str:
    """What is wrong with a file that was put there by hand, by its name; "" if nothing. Small ones are hashed."""
    sources = sources_of_file(os.path.basename(path))
    if not sources or not os.path.isfile(path) or os.path.dirname(path) == cache_folder():
        return ""
    hashed = os.path.getsize(path) <= _QUICKLY_READ and any(source.sha256 for source in sources)
    return unlike_published(path, hashed)


def warn_if_unlike_published(path: str) -> None:
    """Warn of a file that was put there by hand and is not what its name says (see `fault_of_copy`)."""
    if topology.is_main() and (fault := fault_of_copy(path)):
        write_line(f"warning: {_unlike(path, fault)}")


def size_note(name: str) -> str:
    """What `warn_if_unlike_published` will say of a file that is here, as far as its size tells; "" if nothing.

    Args:
        name: as `resolve` takes it. Nothing is read or fetched.
    """
    if "://" in name:
        return ""
    path = name if os.path.isfile(name) else _path_in_folder(name, find_checkpoint(name))
    return _unlike(path, fault) if path and (fault := unlike_published(path)) else ""


def _unlike(path: str, fault: str) -> str:
    return (
        f"{path}: {fault}: it is not the published file of this name, but perhaps an incomplete copy. "
        f"Copy it again, or rename a file of your own; `uniformer weights verify {path}` compares it"
    )


def _given(name: str, checkpoint: Checkpoint | None) -> Found | None:
    """What a path means, or a name in the user's folder."""
    if os.path.isfile(name) or (os.path.isdir(name) and name.endswith(".dcp")):
        return Found(name)
    if os.path.isdir(os.path.join(name, "checkpoints")):
        return Found(_of_run(name))
    if found := _in_folder(name, checkpoint):
        return found
    if os.path.isdir(name):
        return Found(_of_run(name))
    return None


def _in_folder(name: str, checkpoint: Checkpoint | None) -> Found | None:
    """What a name means in $SLOWFAST_UNIFORMER_WEIGHTS."""
    path = _path_in_folder(name, checkpoint)
    if os.path.isfile(path) or path.endswith(".dcp"):
        file = os.path.basename(path)
        sources = checkpoint.sources if checkpoint else ()
        return Found(path, checkpoint, next((source for source in sources if source.file == file), None))
    return Found(_of_run(path)) if path else None


def _path_in_folder(name: str, checkpoint: Checkpoint | None) -> str:
    """The file, .dcp folder or run's folder that a name means in $SLOWFAST_UNIFORMER_WEIGHTS; "" if none."""
    folder = paths.expand(os.environ.get(FOLDER, ""))
    if not folder:
        return ""
    names = [name, *([checkpoint.name] if checkpoint else [])]
    files = [each + ending for each in names for ending in ("", *ENDINGS)]
    files += [os.path.basename(name).replace("+", "_")]
    files += [source.file for source in checkpoint.sources] if checkpoint else []
    for file in files:
        path = os.path.join(folder, file)
        if os.path.isfile(path) or (os.path.isdir(path) and path.endswith(".dcp")):
            return path
        if os.path.isdir(os.path.join(path, "checkpoints")) or published.is_published(path):
            return path
    return ""


def _of_run(folder: str) -> str:
    from slowfast_uniformer.runs import checkpoints  # imports PyTorch

    return checkpoints.find_checkpoint(folder)


def _no_such_weights(name: str) -> str:
    folder = os.environ.get(FOLDER, "")
    where = f" (also not in {FOLDER}, {folder})" if folder else ""
    similar = similar_names(name)
    meant = f"; did you mean {' or '.join(similar)}?" if similar else "."
    return (
        f"{name}: no such file or run's folder{where}, and no published weights of that name{meant} "
        "Give the path of a file or of a run's folder, or a name of `uniformer weights list`. To train from random "
        'weights, set MODEL.INIT_FROM ""'
    )


# -------------------------------------------------------------------------------------------------- fetching
def _obtain(
    name: str, sources: Sequence[Source], folder: str, timeout: float, checkpoint: Checkpoint | None = None
) -> Found:
    """The file of the first source that has it, from the cache or fetched."""
    if found := find_cached(sources, folder):
        return Found(found[0], checkpoint, found[1])
    if variable := offline():
        raise UserError(_failure(name, [(source, "") for source in sources], folder, variable))
    key = checkpoint.name if checkpoint else "file"
    try:
        with _alone(folder, key) as (failure, private):
            if found := find_cached(sources, folder):  # another process has fetched it meanwhile
                return Found(found[0], checkpoint, found[1])
            if failure:
                raise UserError(failure)
            found, message = _fetch_any(name, sources, folder, timeout, private)
            memo = os.path.join(folder, ".locks", f"{key}.failed")
            if not found:
                atomic_write(memo, message)  # for the processes that wait: they need not try again
                raise UserError(message)
            with suppress(FileNotFoundError):
                os.remove(memo)
            return Found(os.path.join(folder, found.file), checkpoint, found)
    except OSError as error:
        raise UserError(
            f"{name}: cannot write to {folder}: {error.strerror or error}. Free space there, or set XDG_CACHE_HOME to "
            f"another folder; or put the file into a folder by hand and set {FOLDER} to it"
        ) from None


def _fetch_any(
    name: str, sources: Sequence[Source], folder: str, timeout: float, private: str
) -> tuple[Source | None, str]:
    """Fetch a file into the cache. Returns the source that gave it; or None, and a message with all reasons."""
    reasons: list[tuple[Source, str]] = []
    for source in sources:
        if source.gone_since:
            reasons.append((source, f"not tried: gone since {source.gone_since}"))
            continue
        target = os.path.join(folder, source.file)
        partial = os.path.join(folder, ".partial", f"{source.kind}-{source.file}{private}")
        checked = with_recorded_hash(source, target)
        try:
            write_line(f"fetching {name} from {source.address} to {folder}")
            path, digest = download.fetch(checked, partial, timeout)
        except download.FetchError as error:
            first = checked != source and checked.sha256 in str(error)
            remedy = f", as at the first download; if it was replaced on purpose, remove {record_path(target)}"
            reasons.append((source, str(error) + remedy * first))
            continue
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk is made no fuller
            raise
        os.replace(path, target)
        write_record(target, digest)
        shutil.rmtree(partial, ignore_errors=True)
        return source, ""
    return None, _failure(name, reasons, folder)


@contextmanager
def _alone(folder: str, key: str) -> Iterator[tuple[str, str]]:
    """Be the only process that fetches `key` into `folder`, on this machine or any that shares the folder.

    Yields:
        With what message another process has failed while this one waited for it, "" if none has; and what to add to
        the names of temporary folders, where the file system has no locks.
    """
    from filelock import FileLock, Timeout

    place = os.path.join(folder, ".locks")
    os.makedirs(place, exist_ok=True)
    lock, memo = FileLock(os.path.join(place, f"{key}.lock")), Path(place, f"{key}.failed")
    before = _changed(memo)
    waited = False
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = True
            with Phase(f"wait for another process that fetches {key}"):
                lock.acquire(poll_interval=0.2)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        yield "", f"-{socket.gethostname()}-{os.getpid()}"
        return
    try:
        failed = waited and _changed(memo) != before
        yield memo.read_text(encoding="utf-8") if failed else "", ""
    finally:
        lock.release()


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _from_hub(address: str, timeout: float) -> str:
    """A file of any repository on the hub, in the hub's own cache, which follows its new versions."""
    try:
        repo, revision, file = download.hub_parts(address)
    except ValueError as error:
        raise UserError(str(error)) from None
    options = {"local_only": bool(offline())}
    try:
        with suppress(download.FetchError):  # says what the parameter names do not (`load._hints`)
            download.hub_download(repo, "config.json", revision, timeout, **options)
        path = download.hub_download(repo, file, revision, timeout, **options)
        if file == published.WEIGHTS:
            _fetch_beside(repo, path, timeout, options)
        return path
    except download.FetchError as error:
        reason = f"{error}, and {offline()} is set" if offline() else str(error)
        raise UserError(
            f"{address}: {reason}. Fetch it on a machine with network (`uniformer weights fetch {address}`; the hub's "
            "cache is the folder HF_HOME), or give the path of a file"
        ) from None
    except OSError as error:
        raise UserError(f"{address}: cannot be written to the hub's cache ({error}); set HF_HOME to a folder") from None


def _fetch_beside(repo: str, path: str, timeout: float, options: dict[str, bool]) -> None:
    """Fetch what a published model has beside its weights. Repositories of other programs have no metrics.json."""
    commit = os.path.basename(os.path.dirname(path))  # the files of the newest may be of a later one
    with suppress(download.FetchError):  # what is missing is reported where the folder is read
        for name in (published.METRICS, published.CONFIG, published.CLASSES):
            download.hub_download(repo, name, commit, timeout, **options)


# --------------------------------------------------------------------------------------------------- messages
def _failure(name: str, reasons: Sequence[tuple[Source, str]], folder: str, forbidden_by: str = "") -> str:
    """One message for all sources of a file, with what to do.

    Args:
        reasons: of each source, why it did not give the file.
        forbidden_by: the variable that forbids downloads, if one does.
    """
    cause = f"{forbidden_by} is set, which forbids to fetch it from" if forbidden_by else "it cannot be fetched"
    lines = [f"{name} is not here, and {cause}:"]
    for source, reason in reasons:
        file = "" if source.address.endswith(f"/{source.file}") else f" ({source.file})"
        lines.append(f"  {source.address}{file}" + (f": {reason}" if reason else ""))
    where = "on a machine with network"
    if "SLURM_JOB_ID" in os.environ:
        where = "on a login node before the job starts (compute nodes may have no network)"
    files = " or ".join(dict.fromkeys(source.file for source, _ in reasons))
    by_hand = "" if "://" in name else f" or into the one that {FOLDER} names"
    unset = f"Unset {forbidden_by}. Or run" if forbidden_by else "Run"
    lines.append(
        f"{unset} `uniformer weights fetch {name}` {where}: it writes to {folder}, which must be the same there and "
        "here (XDG_CACHE_HOME moves it). Or get the file by other means, and put it into that folder"
        f"{by_hand}, as {files}"
    )
    return "\n".join(lines)
