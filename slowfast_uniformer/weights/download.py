"""Fetching one file from one place: Hugging Face, Google Drive, or an address. A wrong file is never kept."""

import errno
import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slowfast_uniformer.runs.log import Phase, is_terminal
from slowfast_uniformer.weights.registry import Source

TIMEOUT = 30.0  # seconds without a byte after which a connection is given up
_ATTEMPTS = 3  # connections that may break while a file is transferred
_CHUNK = 1 << 20
_NOTES = (".version", ".metadata", ".lock", ".gitignore", ".TAG", "")  # beside a file's parts; not parts themselves
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HUB_ADDRESS = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")


class FetchError(Exception):
    """Why a source did not give the file. Another one may."""


class _Broken(Exception):
    """A connection ended early; the rest can be asked for."""


def fetch(source: Source, folder: str, timeout: float = TIMEOUT) -> tuple[str, str]:
    """Fetch a source's file into a folder of its own.

    After an interruption the folder keeps what has arrived, and the next call continues there. A file that is not what
    was asked for is removed.

    Args:
        folder: is created. Only one process at a time may use it.
        timeout: seconds without a byte after which a connection is given up.

    Returns:
        The path of the complete, checked file in `folder`, and its SHA-256.

    Raises:
        FetchError: the source does not have the file, or cannot be reached; with the reason.
        OSError: the file cannot be written, such as on a full disk.
    """
    if source.file.endswith(".h5") and not find_spec("h5py"):
        raise FetchError("reading it needs h5py: pip install 'slowfast_uniformer[keras]'")
    os.makedirs(folder, exist_ok=True)
    method = {"hub": _fetch_hub, "gdrive": _fetch_gdrive}.get(source.kind, _fetch_address)
    try:
        path = method(source, folder, timeout)
    except FetchError:
        if not _holds_a_part(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    fault, digest = find_fault(path, source)
    if fault:
        shutil.rmtree(folder, ignore_errors=True)
        raise FetchError(fault)
    return path, digest


def _holds_a_part(folder: str) -> bool:
    """Whether something of a file has arrived, so that the next call can continue."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.suffix not in _NOTES)
    return any(path.stat().st_size for path in files)


# ---------------------------------------------------------------------------------------------------- checks
def find_fault(path: str, source: Source) -> tuple[str, str]:
    """What is wrong with a file by the size and hash that its source states ("" if nothing), and its SHA-256."""
    if fault := wrong_size(path, source):
        return fault, ""
    if not _is_weights(path):
        return "it is not a file of weights (perhaps a web page, or only a part of the file)", ""
    with Phase(f"check {os.path.basename(path)}"):
        digest = sha256(path)
    if source.sha256 and not digest.startswith(source.sha256):
        return f"its SHA-256 is {digest} instead of {source.sha256}{'' if len(source.sha256) == 64 else '...'}", digest
    return "", digest


def wrong_size(path: str, source: Source) -> str:
    """What is wrong with the size of a file by what its source states; "" if nothing."""
    size = os.path.getsize(path)
    return f"it has {size:,} bytes instead of {source.size:,}" if source.size and size != source.size else ""


def sha256(path: str) -> str:
    """The SHA-256 of a file in hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _is_weights(path: str) -> bool:
    """Whether a file begins as one of torch.save, safetensors or HDF5 does; a zip archive is looked at to its end."""
    with open(path, "rb") as file:
        head = file.read(10)
    if head.startswith(b"PK"):
        return zipfile.is_zipfile(path)
    return head.startswith((b"\x80", b"\x89HDF")) or head[8:9] == b"{"


# --------------------------------------------------------------------------------------------------- an address
def _fetch_address(source: Source, folder: str, timeout: float) -> str:
    path = os.path.join(folder, source.file)
    for attempt in range(_ATTEMPTS):
        before = _size(path)
        try:
            _transfer(source, path, timeout)
            return path
        except _Broken as error:
            if attempt == _ATTEMPTS - 1 or _size(path) == before:
                raise FetchError(str(error)) from None
    raise AssertionError


def _transfer(source: Source, path: str, timeout: float) -> None:
    """Fetch what `path` lacks of a file, or all of it where the server cannot give a part."""
    start, version = _size(path), _read(f"{path}.version")
    if not version and len(source.sha256) < 64:  # nothing would tell whether the rest is of the same file
        start = 0
    headers = {"User-Agent": "slowfast_uniformer", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    headers |= {"If-Range": version} if start and version else {}
    with _open(urllib.request.Request(source.address, headers=headers), path, timeout) as response:
        if response is None:
            return
        if response.headers.get_content_type() == "text/html":
            raise FetchError("a web page came instead of the file")
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else source.size
        if source.size and total != source.size:
            raise FetchError(f"it has {total:,} bytes instead of {source.size:,}")
        etag = response.headers.get("ETag", "")
        version = response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
        Path(f"{path}.version").write_text(version)
        with open(path, "r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            _copy(response, file, start, total, timeout, source.file)
    if total and _size(path) < total:
        raise _Broken(f"the connection ended after {_size(path):,} of {total:,} bytes")


def _open(request: urllib.request.Request, path: str, timeout: float) -> Any:
    """The response; of nothing where all of the file is in `path` already."""
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing comes after what is here
            if error.headers.get("Content-Range") == f"bytes */{_size(path)}":
                return nullcontext()
            os.remove(path)
            raise _Broken("the file became shorter while it was downloaded") from None
        raise FetchError(f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer for {timeout:g} seconds"
        raise FetchError(f"cannot connect ({getattr(reason, 'strerror', None) or reason})") from None


def _copy(response: Any, file: Any, start: int, total: int, timeout: float, title: str) -> None:
    with Phase(f"fetch {title}", total >> 20, "megabyte", done=start >> 20) as phase:
        while True:
            try:
                block = response.read(_CHUNK)
            except TimeoutError:
                raise _Broken(f"no data for {timeout:g} seconds, after {file.tell():,} bytes") from None
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"the connection broke after {file.tell():,} bytes ({error})") from None
            if not block:
                return
            file.write(block)
            phase.advance((file.tell() >> 20) - phase.done)


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text()
    return ""


# ------------------------------------------------------------------------------------------------- the hub, Drive
def hub_parts(address: str) -> tuple[str, str | None, str]:
    """The repository, revision (None: the newest) and file of hf://USER/REPO[@REVISION][/FILE].

    Raises:
        ValueError: it is not such an address.
    """
    match = _HUB_ADDRESS.fullmatch(address)
    if not match:
        raise ValueError(f"{address}: an address on the hub is hf://USER/REPO/FILE, or hf://USER/REPO@REVISION/FILE")
    return match["repo"], match["revision"], match["file"] or "model.safetensors"


def _fetch_hub(source: Source, folder: str, timeout: float) -> str:
    repo, revision, file = hub_parts(source.address)
    return hub_download(repo, file, revision, timeout, local_dir=folder)


def hub_download(
    repo: str, file: str, revision: str | None, timeout: float, local_dir: str | None = None, local_only: bool = False
) -> str:
    """Fetch a file of a repository on the hub, unless it is here. Returns its path.

    Args:
        local_dir: where to; None is the hub's own cache, whose file is taken when the hub cannot be reached.
        local_only: ask nobody.

    Raises:
        FetchError: with the reason.
        OSError: the file cannot be written.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    endpoint, unreachable = os.environ.get("HF_ENDPOINT"), ""
    try:
        if not local_only:  # ask once: the download itself would try again for half a minute
            url = hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
            try:
                get_hf_file_metadata(url, timeout=timeout, endpoint=endpoint)
            except HfHubHTTPError:
                raise
            except Exception as error:  # of its HTTP library
                unreachable = f"the hub cannot be reached ({error})"
                if local_dir:
                    raise FetchError(unreachable) from None
        options = {"revision": revision, "endpoint": endpoint, "etag_timeout": timeout, "local_dir": local_dir}
        return hf_hub_download(repo, file, local_files_only=local_only or bool(unreachable), **options)
    except LocalEntryNotFoundError:
        raise FetchError(unreachable or "it is not in the hub's cache") from None
    except HfHubHTTPError as error:
        raise FetchError(_hub_reason(error)) from None
    except FetchError:
        raise
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise FetchError(f"{type(error).__name__}: {error}") from None
    except Exception as error:  # of its HTTP library, Xet and others
        raise FetchError(f"{type(error).__name__}: {error}".splitlines()[0]) from None


def _hub_reason(error: Any) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its terms must be accepted on its page first; then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private (then run `hf auth login`)"
    if isinstance(error, errors.EntryNotFoundError | errors.RevisionNotFoundError):
        return "there is no such file or revision in the repository"
    return f"the hub answers {error.response.status_code}"


def _fetch_gdrive(source: Source, folder: str, timeout: float) -> str:
    try:
        import gdown
    except ImportError:
        raise FetchError("needs gdown: pip install 'slowfast_uniformer[gdrive]'") from None
    path = os.path.join(folder, source.file)
    number = re.search(r"/d/([^/]+)", source.address)[1]
    try:
        gdown.download(id=number, output=path, quiet=not is_terminal(), resume=True, timeout=timeout)
    except OSError as error:
        if error.errno in _FULL:
            raise
        reason = f"{type(error).__name__}: {error}"
    except Exception as error:  # gdown's, and of what it uses
        reason = str(error) or type(error).__name__
    else:
        return path
    raise FetchError(" ".join(reason.split()))
