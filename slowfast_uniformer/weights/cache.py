"""The cache of fetched weights, with the hash of each file beside it. Files that have changed are not used.

~/.cache/slowfast_uniformer/uniformer_small_in1k.pth
~/.cache/slowfast_uniformer/uniformer_small_in1k.pth.sha256
~/.cache/slowfast_uniformer/addresses/HASH OF ADDRESS/...
"""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from slowfast_uniformer import paths
from slowfast_uniformer.runs.log import write_line
from slowfast_uniformer.weights.download import find_fault
from slowfast_uniformer.weights.registry import Source


def cache_folder() -> str:
    """The folder of fetched weights: slowfast_uniformer in $XDG_CACHE_HOME, or else in ~/.cache."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or paths.expand("~/.cache"), "slowfast_uniformer")


def find_cached(sources: Sequence[Source], folder: str) -> tuple[str, Source] | None:
    """The first file of these sources in a folder of the cache that is as it was fetched. Others are removed."""
    for source in sources:
        path = os.path.join(folder, source.file)
        if not os.path.isfile(path):
            continue
        if fault := fault_in_cache(path, source):
            write_line(f"warning: {path} is removed: {fault}")
            with suppress(OSError):
                os.remove(path)
            continue
        return path, source
    return None


def fault_in_cache(path: str, source: Source, again: bool = False) -> str:
    """What is wrong with a file of the cache; "" if nothing.

    A file without a known hash gets that which it has now.

    Args:
        again: read it even if it has not changed since its hash was checked.
    """
    record = record_path(path)
    if not again and os.path.isfile(record) and os.path.getmtime(record) >= os.path.getmtime(path):
        return ""
    fault, digest = find_fault(path, with_recorded_hash(source, path))
    if not fault:
        with suppress(OSError):  # a cache of others may be read here
            write_record(path, digest)
    return fault


def record_path(path: str) -> str:
    """The file that has the hash of a file of the cache."""
    return f"{path}.sha256"


def write_record(path: str, digest: str) -> None:
    """Write the hash of a file beside it, as `sha256sum --check` reads it."""
    paths.atomic_write(record_path(path), f"{digest}  {os.path.basename(path)}\n")


def with_recorded_hash(source: Source, path: str) -> Source:
    """The source with the hash of its first download, where its whole hash is not published."""
    if len(source.sha256) < 64:
        with suppress(OSError, IndexError):
            return replace(source, sha256=Path(record_path(path)).read_text().split()[0])
    return source


def cached_files() -> Iterator[str]:
    """All files of weights in the cache, those of addresses included."""
    for record in sorted(glob.glob(f"{glob.escape(cache_folder())}/**/*.sha256", recursive=True)):
        if os.path.isfile(path := record.removesuffix(".sha256")):
            yield path
