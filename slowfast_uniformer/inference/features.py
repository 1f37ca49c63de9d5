"""Features of many videos, computed by any number of processes and continued after any interruption.

What is computed goes into a folder OUT.parts, a file every few seconds, and when nothing is left into OUT.
Each video is computed by itself and by one thread, so that no number depends on how many processes there are,
or on what was interrupted when.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from slowfast_uniformer import __version__
from slowfast_uniformer.config.load import to_dict
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.distributed import collectives, signals, topology
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.inputs import find_videos
from slowfast_uniformer.inference.predictor import Predictor, load_model
from slowfast_uniformer.runs.log import progress

ENDINGS = (".safetensors", ".parquet")
EVERY = 20.0  # seconds of work that are lost at most where a process is killed
ROWS = 1024  # written to Parquet at once
_KEY = "slowfast_uniformer"  # of the metadata; one key alone, for safetensors orders several at random
_LONGEST = 90_000_000  # bytes; readers of safetensors refuse a header of 100 MB
_DECIDE = ("MODEL", "UNIFORMER", "UNIFORMERV2", "DATA", "TEST", "RNG_SEED")  # parts of the config


class Row(NamedTuple):
    """Of one video the features (C) or (T, C), and unless those are of frames its most probable class."""

    features: Tensor
    label: int
    probability: float


class Job(NamedTuple):
    """What is to be computed: `about` goes into the result, and its `fingerprint` says whether parts that are
    there belong to it."""

    model: Predictor
    samples: list[Sample]
    output: str
    per_frame: bool
    about: dict[str, Any]

    @property
    def folder(self) -> str:
        return f"{self.output}.parts"


def extract(
    cfg: CfgNode, load: tuple, videos: Sequence[str], output: str, per_frame: bool = False, workers: int = 0
) -> None:
    """Write the features of `videos` (see inputs.find_videos) as `output`: what every process does.

    `load` holds load_model's arguments. A file that is there with the same videos, weights and config stays.
    Raises UserError for another one, for another's parts, and, when all is written, if videos could not be
    read; Interrupted after a signal: the same call goes on.
    """
    model = load_model(*load)
    samples = find_videos(videos, model.cfg)
    job = Job(model, samples, output, per_frame, _about(model, samples, per_frame))
    todo = collectives.broadcast_object(_left(job) if topology.is_main() else None)
    if isinstance(todo, UserError):  # which only the first process has noticed
        raise todo
    if todo is not None:
        _compute(job, todo[topology.rank() :: topology.world_size()], workers)
        if any(collectives.all_gather_objects(signals.stop_requested())):
            raise signals.Interrupted("a signal has come")
    if topology.is_main():
        _finish(job, there=todo is None)


def _about(model: Predictor, samples: list[Sample], per_frame: bool) -> dict[str, Any]:
    config = {key: value for key, value in to_dict(model.cfg).items() if key in _DECIDE}
    config["TRAIN"] = {"MIXED_PRECISION": model.cfg.TRAIN.MIXED_PRECISION}
    about = {
        "videos": [sample.path for sample in samples],
        "per_frame": per_frame,
        "class_names": model.names,
        "weights": model.checksum,
        "cfg": config,
        "versions": {"slowfast_uniformer": __version__, "torch": torch.__version__},
    }
    decisive = [about, [sample.frames for sample in samples], model.device.type]
    return about | {"fingerprint": hashlib.sha256(json.dumps(decisive).encode()).hexdigest()}


# ------------------------------------------------------------------------------------------------- the parts
def _left(job: Job) -> list[int] | UserError | None:
    """The videos that are not computed yet, by their numbers; None if the result is there."""
    try:
        if job.output.lower().endswith(".parquet"):
            _pyarrow()
        elif len(json.dumps(json.dumps(job.about))) > _LONGEST:
            raise UserError(f"{job.output}: so many videos do not fit this format; use .parquet")
        if os.path.exists(job.output):
            if _header(job.output).get("fingerprint") == job.about["fingerprint"]:
                return None
            raise UserError(
                f"{job.output}: holds something else than the features of these videos by this model and "
                "config; remove it, or name another file"
            )
        os.makedirs(job.folder, exist_ok=True)
        done = {number for part in _parts(job) for number in part["rows"] | part["errors"]}
        return [number for number in range(len(job.samples)) if number not in done]
    except OSError as error:
        return UserError(f"{job.folder}: cannot be written ({error.strerror})")
    except UserError as error:
        return error


def _parts(job: Job) -> Iterator[dict[str, Any]]:
    """What parts hold: `rows` and `errors`, by the videos' numbers. UserError for those of another job; what
    is half written is passed over."""
    for name in sorted(os.listdir(job.folder)):
        path = os.path.join(job.folder, name)
        if not name.endswith(".safetensors") or name.startswith("."):
            continue
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()[_KEY])
                features = file.get_tensor("features")
        except (SafetensorError, OSError):
            continue
        if about["fingerprint"] != job.about["fingerprint"]:
            raise UserError(
                f"{job.folder}: holds what was computed for other videos, weights or settings. Continue with "
                "those, or remove the folder"
            )
        rows = zip(about["rows"].items(), features, strict=True)
        yield {
            "rows": {int(number): Row(values, *others) for (number, others), values in rows},
            "errors": {int(number): cause for number, cause in about["errors"].items()},
        }


def _write_part(job: Job, rows: dict[int, Row], errors: dict[int, str]) -> None:
    if not rows and not errors:
        return
    about = {
        "fingerprint": job.about["fingerprint"],
        "rows": {number: row[1:] for number, row in rows.items()},
        "errors": errors,
    }
    features = torch.stack([row.features for row in rows.values()]) if rows else torch.empty(0)
    with video_writer.replacing(os.path.join(job.folder, f"{min(rows | errors):08d}.safetensors")) as beside:
        _write_safetensors(beside, features, {}, about)


# ----------------------------------------------------------------------------------------------- computing
def _compute(job: Job, todo: list[int], workers: int) -> None:
    """Compute videos and write them to parts, until all are done or a signal comes."""
    rows: dict[int, Row] = {}
    errors: dict[int, str] = {}
    written = time.monotonic()
    answer = _frames_of if job.per_frame else _pooled
    try:
        with _single_threaded(job.model) as threads:
            clips = job.model.clips([job.samples[number] for number in todo], workers)
            found = _in_order(lambda each: answer(job.model, each), clips, threads)
            with closing(found):
                for number, row in zip(todo, progress(found, len(todo), "features"), strict=False):
                    if isinstance(row, UserError):
                        errors[number] = str(row)
                    else:
                        rows[number] = row
                    if signals.stop_requested():
                        break
                    if time.monotonic() - written > EVERY:
                        _write_part(job, rows, errors)
                        rows, errors, written = {}, {}, time.monotonic()
    finally:
        _write_part(job, rows, errors)
        with suppress(OSError):  # nothing is left of a job that could not begin
            os.rmdir(job.folder)


def _pooled(model: Predictor, clips: Tensor | UserError) -> Row | UserError:
    """The mean over the views (N, 3, T, H, W) of a video, and what testing would answer."""
    if isinstance(clips, UserError):
        return clips
    features, logits = model.features(clips)
    best = model.probabilities(logits).max(dim=0)
    return Row(features.mean(dim=0), int(best.indices), float(best.values))


def _frames_of(model: Predictor, clips: Tensor | UserError) -> Row | UserError:
    """Of views in time one after another, the mean over those in space."""
    if isinstance(clips, UserError):
        return clips
    crops = model.cfg.TEST.NUM_SPATIAL_CROPS
    return Row(model.frame_features(clips).unflatten(0, (-1, crops)).mean(dim=1).flatten(0, 1), -1, 0.0)


@contextmanager
def _single_threaded(model: Predictor) -> Iterator[int]:
    """Let operations use one thread, for how many they use changes the last digits. Yields how many videos
    can be computed side by side instead: on the CPU as many as there were threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads if model.device.type == "cpu" else 1
    finally:
        torch.set_num_threads(threads)


def _in_order(function: Callable, items: Iterable, threads: int) -> Iterator[Any]:
    """The function of each item, computed by several threads, taking no more items than they need."""
    if threads == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        under_way: deque = deque()
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------- the result
def _finish(job: Job, there: bool) -> None:
    """Put the parts together, unless the result is there; say what there is, and what could not be read."""
    if not there:
        _merge(job)
    shutil.rmtree(job.folder, ignore_errors=True)
    errors = _header(job.output)["errors"]
    for cause in errors.values():
        print(f"not read: {cause}", file=sys.stderr)
    count = len(job.samples)
    found = "was there already, with " if there else ""
    print(f"{job.output}: {found}features of {count - len(errors)} videos")
    if errors:
        raise UserError(
            f"{len(errors)} of {count} videos could not be read, and have no features in {job.output}. To "
            "have them tried again, remove it"
        )


def _merge(job: Job) -> None:
    rows: dict[int, Row] = {}
    errors: dict[int, str] = {}
    for part in _parts(job):
        rows |= part["rows"]
        errors |= part["errors"]
    count = len(job.samples)
    if missing := count - len(rows.keys() | errors.keys()):
        raise UserError(
            f"{job.folder}: {missing} videos are not there; is it on storage that all machines share? "
            "The same command continues"
        )
    if not rows:
        shutil.rmtree(job.folder)
        raise UserError(f"none of {count} videos could be read, the first: {errors[0]}")
    features = torch.full((count, *next(iter(rows.values())).features.shape), torch.nan)
    columns = {"label": torch.full((count,), -1), "probability": torch.full((count,), torch.nan)}
    for number, row in rows.items():
        features[number], columns["label"][number], columns["probability"][number] = row
    about = job.about | {"errors": {job.samples[number].path: errors[number] for number in sorted(errors)}}
    columns = {} if job.per_frame else columns
    write = _write_parquet if job.output.lower().endswith(".parquet") else _write_safetensors
    with video_writer.replacing(job.output) as beside:
        write(beside, features, columns, about)


def _header(path: str) -> dict[str, Any]:
    """What is told about the features in a file; nothing if it is another file."""
    try:
        if path.lower().endswith(".parquet"):
            return json.loads((_pyarrow().parquet.read_schema(path).metadata or {}).get(_KEY.encode(), "{}"))
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except (SafetensorError, OSError, ValueError):  # pyarrow's errors are of the last kind
        return {}


def _write_safetensors(path: str, features: Tensor, columns: dict, about: dict[str, Any]) -> None:
    """By way of memory: nobody else may read what the package's own function writes."""
    content = save({"features": features, **columns}, {_KEY: json.dumps(about)})
    with open(path, "wb") as file:
        file.write(content)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "to write .parquet, pip install 'slowfast_uniformer[features]'; .safetensors needs nothing"
        ) from None
    return pyarrow


def _write_parquet(path: str, features: Tensor, columns: dict, about: dict[str, Any]) -> None:
    pa = _pyarrow()
    writer, names = None, about["class_names"]
    paths = [os.fsencode(video).decode(errors="replace") for video in about["videos"]]
    causes = [about["errors"].get(video) for video in about["videos"]]
    metadata = {_KEY: json.dumps({key: value for key, value in about.items() if key != "videos"})}
    for start in range(0, len(features), ROWS):
        at = slice(start, start + ROWS)
        missing = np.array([cause is not None for cause in causes[at]])
        table = {"video": pa.array(paths[at]), "features": _lists(pa, features[at].numpy(), missing)}
        if columns:
            labels = columns["label"][at].numpy()
            table["label"] = pa.array(labels, mask=missing)
            table["class"] = pa.array([names[label] if label >= 0 else None for label in labels], pa.string())
            table["probability"] = pa.array(columns["probability"][at].numpy(), mask=missing)
        table["error"] = pa.array(causes[at], pa.string())
        table = pa.table(table).replace_schema_metadata(metadata)
        writer = writer or pa.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def _lists(pa: Any, values: np.ndarray, missing: np.ndarray) -> Any:
    """An array (N, ...) as N lists (of lists), null where they are missing."""
    lists = pa.array(values.reshape(-1))
    for axis in range(values.ndim - 1, 0, -1):
        length = values.shape[axis]
        offsets = pa.array(np.arange(0, len(lists) + 1, length, dtype=np.int32))
        lists = pa.ListArray.from_arrays(offsets, lists, mask=pa.array(missing) if axis == 1 else None)
    return lists
