"""Read many videos in parallel and cache what was found, so that no video is read twice.

Results go to a file of JSON lines, a line as soon as a video is read: an interrupted scan continues there.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from slowfast_uniformer.data import sampling, shards
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.bad_videos import bad_video
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.processes import work
from slowfast_uniformer.data.video import FrameFolder, VideoError, VideoSource
from slowfast_uniformer.runs.log import progress

Facts = dict[str, Any]
SIDE, PLAIN = 32, 3.0  # pixels of a picture that is hashed; standard deviation (of 255) of one that shows nothing
# The 8 lowest frequencies of the discrete cosine transform of SIDE values
DCT = np.cos(np.pi / SIDE * np.outer(np.arange(8), np.arange(SIDE) + 0.5))


class Job(NamedTuple):
    """A video in its present state, and how to read it; the key of the cache.

    Attributes:
        path: Video file, tar member or frame folder.
        size: Bytes of the file, folder or tar; -1 if it does not exist.
        mtime: Modification time of the same, in ns.
        images: DATA.IMAGE_TEMPLATE for a frame folder, else None.
        listed: Number of frames that the list says a frame folder has, else None.
        spread: Number of frames to read, spread over the video; 0 for all.
    """

    path: str
    size: int
    mtime: int
    images: str | None
    listed: int | None
    spread: int


def make_job(path: str, images: str, listed: int | None, spread: int) -> Job:
    """The job of reading `path`; `listed` is None for lists without frame counts."""
    folder = not shards.opener(path) and (os.path.isdir(path) or (listed is not None and not os.path.isfile(path)))
    there = next((place for place in (Path(path), *Path(path).parents) if place.exists()), None)
    known = there and (there == Path(path) or there.is_file())  # a parent that is a file is a tar
    state = (there.stat().st_size, there.stat().st_mtime_ns) if known else (-1, 0)
    return Job(path, *state, *((images, listed) if folder else (None, None)), spread)


def scan_videos(jobs: list[Job], path: str, workers: int) -> tuple[dict[Job, Facts], int]:
    """Read the videos that the cache does not hold.

    Args:
        jobs: The videos.
        path: The cache, a file of JSON lines; read first and appended to.
        workers: Number of reading processes; 0 reads in this process.

    Returns:
        What `examine` found for each job, and the number of videos that were read.
    """
    cached = _read_cache(path)
    results = {job: cached.get(job._replace(spread=0)) or cached.get(job) for job in jobs}
    new = [job for job, facts in results.items() if not facts]
    with open(path, "a", encoding="utf-8") as file:
        for job, facts in progress(work(examine, new, workers, _crashed), len(new), "check", "video"):
            results[job] = facts
            file.write(json.dumps({**job._asdict(), "facts": facts}) + "\n")
            file.flush()
    return results, len(new)


def _read_cache(path: str) -> dict[Job, Facts]:
    with open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        lines = file.readlines()
        if lines and not lines[-1].endswith("\n"):  # the last write was interrupted
            file.write("\n")
    rows = [json.loads(line) for line in lines if line.endswith("}}\n")]
    rows = [row for row in rows if "looks" in row["facts"] or "error" in row["facts"]]  # others are of older versions
    return {Job(*(row[f] for f in Job._fields)): row["facts"] for row in rows if not row["facts"].get("away")}


def _crashed(job: Job) -> Facts:
    return {"error": f"cannot read {job.path}: the process that reads it crashes or is killed"}


def examine(job: Job) -> Facts:
    """Read a video.

    Returns:
        `frames`, `fps`, `width`, `height`, `seconds` (when it ends; of frame folders 0), `hash` of its bytes, and
        `looks`, 64 bits of each of four frames, hexadecimal (of a video that shows nothing empty); if all frames are
        read also `sizes`, the number of different frame sizes, and `damaged`, the number of frames that decode with
        errors; `passed_over`, the error of packets that do not decode, such as those at a cut. Only `error` if the
        video cannot be read, with `away` if the file system can be at fault; that is not taken from the cache.
    """
    try:
        with open_sample(Sample(job.path, UNLABELLED, job.listed), job.images) as video:
            info = video.info
            facts = {"frames": info.frames, "fps": info.fps, "width": info.width, "height": info.height}
            facts["seconds"] = 0.0 if isinstance(video, FrameFolder) else video.duration(video.times())
            facts["looks"] = _looks(video)
            if job.spread:
                video.read(sampling.sparse(info.frames, job.spread, 0, 1))
            else:
                frames = Counter(video.decode_all())
                facts["sizes"] = len({(width, height) for width, height, _ in frames})
                facts["damaged"] = sum(count for (*_, damaged), count in frames.items() if damaged)
            if video.passed_over:
                facts["passed_over"] = video.passed_over
            names = map(video.image_name, range(video.frames)) if isinstance(video, FrameFolder) else None
        return facts | {"hash": _hash([os.path.join(job.path, name) for name in names] if names else [job.path])}
    except VideoError as error:
        return {"error": str(error)} | ({} if bad_video(job.path, error).state else {"away": True})
    except Exception as error:  # damaged files can raise anything
        return {"error": f"cannot read {job.path}: {type(error).__name__}: {error}"}


def _looks(video: VideoSource) -> str:
    """Perceptual hash of four frames: which of the 64 lowest frequencies of a small grey picture are above their
    median. Scaling and compression change few of these bits. Empty where a frame shows nothing."""
    numbers = [video.frames * (2 * part + 1) // 8 for part in range(4)]
    bits = ""
    for frame in video.read(numbers, SIDE):
        grey = np.asarray(Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), float)
        if grey.std() < PLAIN:
            return ""
        lowest = (DCT @ grey @ DCT.T).flatten()
        bits += "".join("01"[int(value)] for value in lowest > np.median(lowest[1:]))
    return f"{int(bits, 2):064x}"


def _hash(paths: list[str]) -> str:
    """BLAKE2 hash of the bytes of a file, or of all images of a frame folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        open_member = shards.opener(path)
        with open_member() if open_member else open(path, "rb", 0) as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
