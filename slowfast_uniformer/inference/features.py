"""Features of many videos, computed by any number of processes and resumable after any interruption.

Results go into a folder OUT.parts, a file every few seconds, and once all videos are done into OUT. Each video is
computed separately and on one thread, so that no digit depends on the number of processes or on interruptions.
"""

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from slowfast_uniformer import __version__, terminal
from slowfast_uniformer.config.load import to_dict
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.distributed import collectives, signals, topology
from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.inference.inputs import find_videos
from slowfast_uniformer.inference.outputs import atomic_output
from slowfast_uniformer.inference.predictor import WINDOW_BATCH, Predictor, fps_of, load_model
from slowfast_uniformer.runs.log import progress
from slowfast_uniformer.wording import counted

ENDINGS = (".safetensors", ".parquet")
SHOWN = 10  # causes that are printed
PART_SECONDS = 20.0  # between parts: what a killed process loses at most
PARQUET_ROWS = 1024  # in each row group
_METADATA = "slowfast_uniformer"  # the only key, since safetensors writes several in random order
_CONFIG_SECTIONS = ("MODEL", "UNIFORMER", "UNIFORMERV2", "DATA", "TEST", "RNG_SEED")  # those that decide the features
# What is found in a video: `features` (1, C), of windows (N, C), or per frame (1, T, C); unless per frame also `label`
# and `probability` (N,) of the most probable class, and of windows their `start` and `end` (N,) in seconds
Rows = dict[str, Tensor]
MISSING = {"label": -1}  # in the row of a video that cannot be read; NaN in other columns


Windows = tuple[float | None, float | None]


class Job(NamedTuple):
    """What to compute.

    Attributes:
        metadata: of the result. Its `fingerprint` identifies the parts that belong to this job.
        windows: seconds of sliding windows and between them, each None for the default of `Predictor.timeline`; None
            for features of whole videos.
        grid: above 0: features and tokens of every view, in half precision (see `Predictor.tokens`).
    """

    model: Predictor
    samples: list[Sample]
    output: str
    per_frame: bool
    metadata: dict[str, Any]
    windows: Windows | None = None
    grid: int = 0

    @property
    def folder(self) -> str:
        """Where the parts are."""
        return f"{self.output}.parts"

    @property
    def parquet(self) -> bool:
        return self.output.lower().endswith(".parquet")


def extract(
    cfg: CfgNode,
    load: dict[str, Any],
    videos: Sequence[str],
    output: str,
    per_frame: bool = False,
    workers: int = 0,
    windows: Windows | None = None,
) -> None:
    """Write features of videos: what every process of the command runs.

    Args:
        cfg: the config, which `launch` passes; unused, since the model carries its own.
        load: keyword arguments of `load_model`.
        videos: files, folders and lists (see `inputs.find_videos`).
        output: a .safetensors or .parquet file. One that holds the features of the same videos, weights and config
            is kept.
        per_frame: write features (T, C) of frames in place of (C,).
        workers: DataLoader workers of each process; of windows, threads that each read a video.
        windows: see `Job`.

    Raises:
        UserError: `output` or its parts belong to something else; or, once all is written, some videos could not be
            read.
        Interrupted: a signal requested a stop; the same call continues.
    """
    model = load_model(**load)
    samples = find_videos(videos, model.cfg)
    metadata = _metadata(model, samples, per_frame, windows)
    job = Job(model, samples, output, per_frame, metadata, windows)
    exists = _complete(job, workers)
    if topology.is_main():
        _report(job, exists)


def extract_tokens(
    model: Predictor, samples: list[Sample], output: str, grid: int, workers: int = 0
) -> tuple[Tensor, dict[str, str]]:
    """Features and tokens of all views of videos, from a file that is written first unless it exists (collective).

    Args:
        output: a .safetensors file.
        grid: of the tokens (see `Predictor.tokens`).
        workers: DataLoader workers of each process.

    Returns:
        (V, N, T', 1 + M, C) of N views in half precision, nan where a video could not be read; and why, by path.

    Raises:
        UserError, Interrupted: as `extract`, but for videos that could not be read.
    """
    job = Job(model, samples, output, False, _metadata(model, samples, False, grid=grid), grid=grid)
    _complete(job, workers)
    collectives.barrier()  # until the main rank has written it
    with safe_open(output, "pt") as file:
        return file.get_tensor("features"), _read_metadata(output)["errors"]


def _complete(job: Job, workers: int) -> bool:
    """Compute what is missing and write the result; whether it existed (collective)."""
    todo = collectives.call_on_main(_remaining, job)
    if todo is None:
        return True
    _compute(job, todo[topology.rank() :: topology.world_size()], workers)
    if any(collectives.all_gather_objects(signals.stop_requested())):
        raise signals.Interrupted("stopped by a signal; the same command continues")
    if topology.is_main():
        _merge(job)
        shutil.rmtree(job.folder, ignore_errors=True)
    return False


def _metadata(
    model: Predictor, samples: list[Sample], per_frame: bool, windows: Windows | None = None, grid: int = 0
) -> dict[str, Any]:
    config = {key: value for key, value in to_dict(model.cfg).items() if key in _CONFIG_SECTIONS}
    config["TRAIN"] = {"MIXED_PRECISION": model.cfg.TRAIN.MIXED_PRECISION}
    metadata = {
        "videos": [sample.path for sample in samples],
        "per_frame": per_frame,
        "class_names": model.names,
        "weights": model.checksum,
        "cfg": config,
        "versions": {"slowfast_uniformer": __version__, "torch": torch.__version__},
    }
    if windows:
        metadata |= dict(zip(("window", "stride"), windows, strict=True))
    if grid:
        metadata["grid"] = grid
        config["MODEL"] = {key: value for key, value in config["MODEL"].items() if not key.startswith("HEAD")}
    identity = [metadata, [sample.frames for sample in samples], model.device.type]
    return metadata | {"fingerprint": hashlib.sha256(json.dumps(identity).encode()).hexdigest()}


# ------------------------------------------------------------------------------------------------- parts
def _remaining(job: Job) -> list[int] | None:
    """Indices of the videos still to compute; None if the result exists."""
    if job.parquet:
        _pyarrow()
    elif len(json.dumps(json.dumps(job.metadata))) > 90_000_000:  # readers of safetensors refuse a header of 100 MB
        raise UserError(f"{job.output}: too many videos for the header of this format; use .parquet")
    if os.path.exists(job.output):
        if _read_metadata(job.output).get("fingerprint") == job.metadata["fingerprint"]:
            return None
        raise UserError(
            f"{job.output}: holds features of other videos, or of another model or config; remove it, or name another "
            "file"
        )
    with os_errors_reported(f"{job.folder}: cannot be written"):
        os.makedirs(job.folder, exist_ok=True)
    rows, _ = _read_parts(job)  # what could not be read may be there now
    return [index for index in range(len(job.samples)) if index not in rows]


def _read_parts(job: Job) -> tuple[dict[int, Rows], dict[int, str]]:
    """Rows and errors by the videos' indices. Damaged parts are skipped; UserError for those of another job."""
    rows: dict[int, Rows] = {}
    errors: dict[int, str] = {}
    for name in sorted(glob("*.safetensors", root_dir=job.folder)):  # not the temporary files, which begin with a dot
        try:
            with safe_open(os.path.join(job.folder, name), "pt") as file:
                part = json.loads(file.metadata()[_METADATA])
                columns = {column: file.get_tensor(column) for column in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            continue
        if part["fingerprint"] != job.metadata["fingerprint"]:
            raise UserError(
                f"{job.folder}: holds what was computed for other videos, weights or settings. Continue with "
                "those, or remove the folder"
            )
        counts = list(part["rows"].values())
        split = {column: values.split(counts) for column, values in columns.items()}
        for place, index in enumerate(part["rows"]):
            rows[int(index)] = {column: values[place] for column, values in split.items()}
        errors |= {int(index): cause for index, cause in part["errors"].items()}
    return rows, {index: cause for index, cause in errors.items() if index not in rows}


def _write_part(job: Job, rows: dict[int, Rows], errors: dict[int, str]) -> None:
    if not rows and not errors:
        return
    counts = {index: len(found["features"]) for index, found in rows.items()}
    part = {"fingerprint": job.metadata["fingerprint"], "rows": counts, "errors": errors}
    # The time makes the name unique: a video that could not be read before can be the first of another part.
    name = f"{min(rows | errors):08d}_{time.time_ns()}.safetensors"
    with atomic_output(os.path.join(job.folder, name)) as temporary:
        _write_safetensors(temporary, _joined(list(rows.values())), part)


def _joined(rows: Sequence[Rows]) -> Rows:
    """The columns of the rows of several videos."""
    return {column: torch.cat([found[column] for found in rows]) for column in (rows[0] if rows else ())}


# --------------------------------------------------------------------------------------------- computing
def _compute(job: Job, todo: list[int], workers: int) -> None:
    """Compute videos and write parts, until all are done or a stop is requested.

    Each operation runs on one thread, since the number of threads changes the last digits. On the CPU as many videos
    are computed concurrently instead as there were threads.
    """
    rows: dict[int, Rows] = {}
    errors: dict[int, str] = {}
    written = time.monotonic()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        samples, of_cpu = [job.samples[index] for index in todo], job.model.device.type == "cpu"
        if job.windows:
            rows_of, items, concurrent = _window_rows, samples, threads if of_cpu else max(1, workers)
        else:
            rows_of, items, concurrent = _rows, job.model.clips(samples, workers), threads if of_cpu else 1
        with closing(_map_in_order(partial(rows_of, job), items, concurrent)) as found:
            world = topology.world_size()
            title = "features" if world == 1 else f"features, the share of one of {world} processes"
            for of_video, index in zip(progress(found, len(todo), title, "video"), todo, strict=True):
                if isinstance(of_video, UserError):
                    errors[index] = str(of_video)
                else:
                    rows[index] = of_video
                if signals.stop_requested():
                    break
                if time.monotonic() - written > PART_SECONDS:
                    _write_part(job, rows, errors)
                    rows, errors, written = {}, {}, time.monotonic()
    finally:
        torch.set_num_threads(threads)
        _write_part(job, rows, errors)
        with suppress(OSError):  # succeeds if there are no parts: a job that could not begin leaves no folder
            os.rmdir(job.folder)


def _rows(job: Job, clips: Tensor | UserError) -> Rows | UserError:
    """The row of a video from its views (N, 3, T, H, W): the mean of their features, and the class as in testing.

    Features of frames are averaged over the spatial crops only; temporal views follow one another.
    """
    if isinstance(clips, UserError):
        return clips
    if job.grid:
        return {"features": job.model.tokens(clips, job.grid).half()[None]}
    if job.per_frame:
        frames = job.model.frame_features(clips).unflatten(0, (-1, job.model.cfg.TEST.NUM_SPATIAL_CROPS))
        return {"features": frames.mean(dim=1).flatten(0, 1)[None]}
    features, logits = job.model.features(clips)
    best = job.model.probabilities(logits).max(dim=0)
    return {"features": features.mean(dim=0)[None], "label": best.indices[None], "probability": best.values[None]}


def _window_rows(job: Job, sample: Sample) -> Rows | UserError:
    """A row for each window of a video; windows are as in `Predictor.timeline`, but may leave gaps."""
    model, found = job.model, []
    try:
        with model.open(sample) as video:
            starts, length = model.windows(video, *job.windows, gaps=True)
            for first in range(0, len(starts), WINDOW_BATCH):
                clips = model.window_clips(video, starts[first : first + WINDOW_BATCH], length)
                features, logits = model.features(clips)
                best = torch.stack([model.probabilities(row[None]) for row in logits]).max(dim=1)
                found.append({"features": features, "label": best.indices, "probability": best.values})
            start = torch.tensor(starts, dtype=torch.float64)
            times = {"start": start, "end": (start + length).clamp(max=video.frames)}
            return _joined(found) | {name: frames / fps_of(video) for name, frames in times.items()}
    except UserError as error:
        return error


def _map_in_order(function: Callable, items: Iterable, threads: int) -> Iterator[Any]:
    """`map` on several threads; takes at most one item more than there are threads ahead of its results."""
    if threads == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        pending: deque = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# -------------------------------------------------------------------------------------------- the result
def _report(job: Job, exists: bool) -> None:
    """Report the result and the videos that could not be read; UserError if there are any."""
    errors = _read_metadata(job.output)["errors"]
    for cause in list(errors.values())[:SHOWN]:
        terminal.show(f"no features: {cause}", error=True)
    if len(errors) > SHOWN:
        terminal.show(
            f"no features: {len(errors) - SHOWN:,} more videos; the file's metadata has all causes", error=True
        )
    count = len(job.samples)
    existing = "exists already, with " if exists else ""
    of_windows = " in windows" if job.windows else ""
    print(f"{job.output}: {existing}features of {counted(count - len(errors), 'video')}{of_windows}")
    if errors:
        raise UserError(
            f"{len(errors)} of {counted(count, 'video')} could not be read and have no features in {job.output}. To "
            "try them again, remove that file"
        )


def _merge(job: Job) -> None:
    rows, errors = _read_parts(job)
    count = len(job.samples)
    if missing := count - len(rows.keys() | errors.keys()):
        raise UserError(
            f"{job.folder}: videos are missing ({missing}); is the folder on storage that all machines share? "
            "The same command continues"
        )
    if not rows:
        shutil.rmtree(job.folder)
        raise UserError(f"none of {counted(count, 'video')} could be read; the first: {errors[0]}")
    some = next(iter(rows.values()))
    missing = {
        name: torch.full((1, *values.shape[1:]), MISSING.get(name, torch.nan), dtype=values.dtype)
        for name, values in some.items()
    }
    of_videos = [rows.get(index, missing) for index in range(count)]
    columns = _joined(of_videos)
    if job.windows:
        lengths = torch.tensor([len(each["features"]) for each in of_videos])
        columns["video"] = torch.arange(count).repeat_interleave(lengths)
    metadata = job.metadata | {"errors": {job.samples[index].path: errors[index] for index in sorted(errors)}}
    write = _write_parquet if job.parquet else _write_safetensors
    with atomic_output(job.output) as temporary:
        write(temporary, columns, metadata)


def _read_metadata(path: str) -> dict[str, Any]:
    """The metadata of a file of features; empty for any other file."""
    try:
        if path.lower().endswith(".parquet"):
            return json.loads((_pyarrow().parquet.read_schema(path).metadata or {}).get(_METADATA.encode(), "{}"))
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    except (SafetensorError, OSError, ValueError):  # pyarrow's errors are ValueErrors
        return {}


def _write_safetensors(path: str, columns: Rows, metadata: dict[str, Any]) -> None:
    """Through memory, since files that safetensors itself writes are readable for their owner only."""
    Path(path).write_bytes(save(columns, {_METADATA: json.dumps(metadata)}))


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "to write .parquet, pip install 'slowfast_uniformer[features]'; .safetensors needs nothing"
        ) from None
    return pyarrow


def _write_parquet(path: str, columns: Rows, metadata: dict[str, Any]) -> None:
    pa = _pyarrow()
    writer, names = None, metadata["class_names"]
    features = columns["features"]
    of_rows = columns.get("video", torch.arange(len(features))).tolist()
    paths = [os.fsencode(video).decode(errors="replace") for video in metadata["videos"]]
    causes = [metadata["errors"].get(video) for video in metadata["videos"]]
    header = {_METADATA: json.dumps({key: value for key, value in metadata.items() if key != "videos"})}
    for start in range(0, len(features), PARQUET_ROWS):
        rows = slice(start, start + PARQUET_ROWS)
        errors = [causes[video] for video in of_rows[rows]]
        missing = np.array([cause is not None for cause in errors])
        table = {"video": pa.array([paths[video] for video in of_rows[rows]])}
        for name in ("start", "end"):
            if name in columns:
                table[name] = pa.array(columns[name][rows].numpy(), mask=missing)
        table["features"] = _nested_lists(pa, features[rows].numpy(), missing)
        if "label" in columns:
            labels = columns["label"][rows].numpy()
            table["label"] = pa.array(labels, mask=missing)
            table["class"] = pa.array([names[label] if label >= 0 else None for label in labels], pa.string())
            table["probability"] = pa.array(columns["probability"][rows].numpy(), mask=missing)
        table["error"] = pa.array(errors, pa.string())
        table = pa.table(table).replace_schema_metadata(header)
        writer = writer or pa.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def _nested_lists(pa: Any, values: np.ndarray, missing: np.ndarray) -> Any:
    """An array (N, ...) as N nested lists, null where `missing` (N,)."""
    lists = pa.array(values.reshape(-1))
    for axis in range(values.ndim - 1, 0, -1):
        offsets = pa.array(np.arange(0, len(lists) + 1, values.shape[axis], dtype=np.int32))
        lists = pa.ListArray.from_arrays(offsets, lists, mask=pa.array(missing) if axis == 1 else None)
    return lists
