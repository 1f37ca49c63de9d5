"""Read many videos in parallel and keep what was found, so that none is read twice.

Results go to a file of JSON lines, one as soon as a video is read: a run that was interrupted goes on there.
"""

import hashlib
import json
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from slowfast_uniformer.data import sampling, shards
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.video import FrameFolder, VideoError
from slowfast_uniformer.runs.log import progress

Facts = dict[str, Any]


class Job(NamedTuple):
    """A video as it is now, and how to read it. `size` (bytes; -1 where nothing is) and `mtime` (ns) are of
    the file, folder or tar; a folder has `images`, a template of names, and `listed` of them; `spread` is the
    number of frames to read, 0 for all."""

    path: str
    size: int
    mtime: int
    images: str | None
    listed: int | None
    spread: int


def make_job(path: str, images: str, listed: int | None, spread: int) -> Job:
    """The job of reading `path`; `listed` is None where lists do not count frames."""
    folder = listed is not None and not os.path.isfile(path) and not shards.opener(path)
    there = next((place for place in (Path(path), *Path(path).parents) if place.exists()), None)
    known = there and (there == Path(path) or there.is_file())  # a file above it is a tar
    state = (there.stat().st_size, there.stat().st_mtime_ns) if known else (-1, 0)
    return Job(path, *state, *((images, listed) if folder else (None, None)), spread)


def scan_videos(jobs: list[Job], path: str, workers: int) -> tuple[dict[Job, Facts], int]:
    """What `examine` finds for each job, and how many of them had to be read now.

    `path` is the file of results: read first, and added to. `workers` processes read, or this one if 0.
    """
    cached = _cached(path)
    results = {job: cached.get(job._replace(spread=0)) or cached.get(job) for job in jobs}
    new = [job for job, facts in results.items() if not facts]
    with open(path, "a", encoding="utf-8") as file:
        for job, facts in progress(_read_all(new, workers), len(new), "reading"):
            results[job] = facts
            file.write(json.dumps({**job._asdict(), "facts": facts}) + "\n")
            file.flush()
    return results, len(new)


def _cached(path: str) -> dict[Job, Facts]:
    known: dict[Job, Facts] = {}
    with open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        line = "\n"
        for line in file:
            if line.endswith("}}\n"):
                row = json.loads(line)
                known[Job(*(row[field] for field in Job._fields))] = row["facts"]
        if not line.endswith("\n"):  # writing it was interrupted
            file.write("\n")
    return known


def _read_all(jobs: list[Job], workers: int) -> Iterator[tuple[Job, Facts]]:
    """Examine all, in any order. When a process is lost, what was being read is read again one by one."""
    if not workers:
        yield from ((job, examine(job)) for job in jobs)
        return
    with _interrupts() as interrupted:
        yield from _read_in_pools(deque(jobs), workers, interrupted)


@contextmanager
def _interrupts() -> Iterator[list]:
    """A list that grows with Ctrl-C: in the middle of a pool's work KeyboardInterrupt can leave it locked."""
    interrupted: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _read_in_pools(waiting: deque[Job], workers: int, interrupted: list) -> Iterator[tuple[Job, Facts]]:
    while waiting:
        pool = _pool(workers)
        running: dict[Future, Job] = {}
        try:
            while waiting or running:
                if interrupted:
                    raise KeyboardInterrupt
                while waiting and len(running) < 4 * workers:
                    running[pool.submit(examine, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    facts = future.result()
                    yield running.pop(future), facts
        except BrokenProcessPool:
            yield from ((job, _alone(job)) for job in running.values())
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("spawn"), _follow)


def _follow() -> None:
    """In a reading process: leave Ctrl-C to the main one, and end with it if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _alone(job: Job) -> Facts:
    with _pool(1) as pool:
        try:
            return pool.submit(examine, job).result()
        except BrokenProcessPool:
            return {"error": f"cannot read {job.path}: the process that reads it crashes or is killed"}


def examine(job: Job) -> Facts:
    """Read a video: `frames`, `fps`, `width`, `height`, `hash` of its bytes, and if all frames are read how
    many `sizes` they have and how many are `damaged`; or `error` for what cannot be read."""
    try:
        in_tar = shards.opener(job.path)
        opened = FrameFolder(job.path, job.images, job.listed) if job.images else Video(job.path, in_tar)
        with opened as video:
            info = video.info
            facts = {"frames": info.frames, "fps": info.fps, "width": info.width, "height": info.height}
            if job.spread:
                video.read(sampling.sparse(info.frames, job.spread, 0, 1))
            else:
                frames = Counter(video.survey())
                facts["sizes"] = len({(width, height) for width, height, _ in frames})
                facts["damaged"] = sum(count for (*_, damaged), count in frames.items() if damaged)
        return facts | {"hash": _hash(job)}
    except VideoError as error:
        return {"error": str(error)}
    except Exception as error:  # damaged files bring about errors that nobody foresaw
        return {"error": f"cannot read {job.path}: {type(error).__name__}: {error}"}


def _hash(job: Job) -> str:
    """Of the file's bytes, or of all images'."""
    names = [job.images.format(n + 1) for n in range(job.listed)] if job.images else [""]
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        path = os.path.join(job.path, name) if name else job.path
        with (shards.opener(path) or (lambda path=path: open(path, "rb", 0)))() as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
