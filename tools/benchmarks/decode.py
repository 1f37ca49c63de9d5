"""Measure data/decode.py: its speed against other decoders, and whether it leaks memory.

    python tools/benchmarks/decode.py speed|long|leak [--videos FILE ...] [--positions 12] [--repeats 5]
        [--reads 5000] [--kills 20] [--minutes 10] [--json]

`speed` reads 16 frames of stride 4 (dense) and 8 spread ones (sparse) at random positions of the videos, or of
10-second clips that it renders: 340x256, H.264 with B-frames, a key frame every 12 or 250 frames. Each read opens the
file, on one thread. Baselines are interleaved; the minimum CPU time of the repeats counts. `long` opens videos of ten
minutes in containers and codecs of many kinds and reads 8 spread frames of each, beside decoding them whole with PyAV.
With PYTHONPATH it measures another version of the package. `leak` reads intact and damaged files, closes some early and
kills processes while they read (Linux).
"""

import argparse
import itertools
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from results import to_json
from timing import interleaved

from slowfast_uniformer.data import sampling
from slowfast_uniformer.data.decode import Video, probe, read_frames
from slowfast_uniformer.data.video import VideoError

FRAMES, FPS, WIDTH, HEIGHT = 300, 30, 340, 256


# Kinds of long videos: codec, pixel format and options.
LONG = {
    "h264.mp4": ("libx264", "yuv420p", {"x264-params": "log=-1:scenecut=0"}),
    "h264.ts": ("libx264", "yuv420p", {"x264-params": "log=-1:scenecut=0"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "mjpeg.mkv": ("mjpeg", "yuvj420p", {}),
    "vp8.webm": ("libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {}),
}


def pictures(frames: int = FRAMES) -> Iterator[np.ndarray]:
    """A texture that moves behind another one, with some noise."""
    noise = np.random.RandomState(0)
    textures = noise.randn(2, HEIGHT + 2 * FRAMES, WIDTH + 2 * FRAMES, 3).cumsum(1).cumsum(2)
    textures = 255 * (textures - textures.min()) / np.ptp(textures)
    grain = noise.randn(8, HEIGHT, WIDTH, 1) * 3
    for n in range(frames):
        picture = textures[0, n : n + HEIGHT, n : n + WIDTH] + grain[n % 8]
        picture[60:200, 80:240] = textures[1, n : n + 140, 2 * n : 2 * n + 160]
        yield picture.clip(0, 255).astype(np.uint8)


def render(path: Path, gop: int, kind: str = "h264.mp4", repeats: int = 1, frames: int = FRAMES) -> str:
    """Write a clip, its packets again and again `repeats` times."""
    codec, pix_fmt, options = LONG[kind]
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.codec_context.gop_size, stream.codec_context.time_base = gop, Fraction(1, FPS)
        stream.codec_context.max_b_frames = 0 if codec in ("mjpeg", "libvpx", "mpeg4") else 3
        packets = []
        for n, picture in enumerate(pictures(frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, FPS)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        contents = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        for repeat, (content, pts, dts, key) in itertools.product(range(repeats), contents):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, FPS), key
            packet.pts, packet.dts = pts + repeat * frames, dts + repeat * frames
            container.mux(packet)
    return str(path)


def pyav_everything(path: str, indices: np.ndarray) -> None:
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = enumerate(container.decode(video=0))
        [frame.to_ndarray(format="rgb24") for number, frame in frames if number in indices]


def pyav_seek(path: str, indices: np.ndarray) -> None:  # for a constant frame rate
    group = None
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for shown in [round(n / (stream.average_rate * stream.time_base)) for n in indices.tolist()]:
            if group != (group := stream.index_entries.search_timestamp(shown)):
                container.seek(shown, stream=stream)
                frames, frame = container.decode(stream), None
            if frame is None or frame.pts < shown:  # else wanted again, at a short video's end
                frame = next((frame for frame in frames if frame.pts >= shown), frame)
            frame.to_ndarray(format="rgb24")


def by_decord(path: str, indices: np.ndarray) -> None:
    import decord

    decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


def by_torchcodec(path: str, indices: np.ndarray) -> None:
    from torchcodec.decoders import VideoDecoder

    VideoDecoder(path, dimension_order="NHWC", seek_mode="exact").get_frames_at(indices.tolist())


def speed(paths: list[str], args: argparse.Namespace) -> None:
    """Print milliseconds per read of each decoder, and without --json geometric means relative to this program's."""
    decoders, ratios = {"read_frames": read_frames, "pyav_everything": pyav_everything, "pyav_seek": pyav_seek}, []
    for baseline in (by_decord, by_torchcodec):
        try:
            baseline(paths[0], np.arange(2))
            decoders[baseline.__name__] = baseline
        except (ImportError, OSError, RuntimeError) as error:
            print(f"without {baseline.__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
    rows = []
    for path, kind in itertools.product(paths, ("dense", "sparse")):
        frames, mean = probe(path).frames, 0.0
        for _ in range(args.positions):
            indices = sampling.dense(frames, 16, 4) if kind == "dense" else sampling.sparse(frames, 8)
            calls = {name: partial(decoder, path, indices) for name, decoder in decoders.items()}
            mean += 1e3 * np.array(list(interleaved(calls, args.repeats).values())) / args.positions
        ratios.append(mean / mean[0])
        rows.append({"video": Path(path).name, "sampling": kind, **dict(zip(decoders, mean.tolist(), strict=True))})
    if args.json:
        return print(to_json(rows, threads=1))
    print(f"{'ms per read':32}" + "".join(f"{name:>16}" for name in decoders))
    for row in rows:
        print(f"{row['video'][:24]:25}{row['sampling']:7}" + "".join(f"{row[name]:16.1f}" for name in decoders))
    print(f"{'geometric mean, relative':32}" + "".join(f"{r:16.2f}" for r in np.exp(np.log(ratios).mean(0))))


def long(paths: list[str]) -> None:
    """Print seconds of CPU for opening and for reading 8 spread frames, and for decoding all and keeping these."""
    print(f"{'seconds':32}{'open':>10}{'8 frames':>10}{'both':>10}{'all':>10}")
    for path in paths:
        times = [time.process_time()]
        with Video(path) as video:
            times.append(time.process_time())
            indices = sampling.sparse(video.frames, 8)
            video.read(indices)
            times.append(time.process_time())
        pyav_everything(path, indices)
        times.append(time.process_time())
        opening, reading, everything = np.diff(times)
        figures = (opening, reading, opening + reading, everything)
        print(f"{Path(path).name:32}" + "".join(f"{figure:10.2f}" for figure in figures), flush=True)


def held() -> tuple[float, int, int]:
    """Resident MB, threads and open files of this process."""
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return memory, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def mixed_reads(paths: list[str], reads: int) -> list[tuple[float, int, int]]:
    """Read frames of files, or begin to decode them, intact or damaged; returns `held` after each tenth."""
    figures = []
    for number in range(1, reads + 1):
        with suppress(VideoError), Video(random.choice(paths)) as video:
            if number % 2:
                video.read(sampling.sparse(video.info.frames, 8))
            else:
                next(video.decode_all())
        figures += [held()] if number % (reads // 10) == 0 else []
    return figures


def leak(paths: list[str], args: argparse.Namespace) -> None:
    """Print memory, threads and open files while files are read, and after readers were killed."""
    figures = mixed_reads(paths, args.reads)
    lines = ("{:.1f} MB, {} threads, {} open files".format(*figure) for figure in figures)
    slope = np.polyfit(np.arange(2, 10) * args.reads / 1e4, [memory for memory, *_ in figures[2:]], 1)[0]
    print(*lines, f"{slope:.3f} MB more per 1,000 reads (without the first fifth)", sep="\n")
    for _ in range(args.kills):
        process = multiprocessing.get_context("fork").Process(target=mixed_reads, args=(paths, 10**9))
        process.start()
        time.sleep(random.uniform(0.1, 0.5))
        process.kill()
        process.join()
        process.close()
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text(), "a child process is left"
    print("after {} killed readers: {:.1f} MB, {} threads, {} open files".format(args.kills, *held()))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure decoding.")
    parser.add_argument("mode", choices=["speed", "long", "leak"])
    parser.add_argument("--videos", nargs="+", default=[])
    for name, default in {"positions": 12, "repeats": 5, "reads": 5000, "kills": 20, "minutes": 10, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text (speed)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.mode == "long":
            repeats = args.minutes * 60 * FPS // FRAMES
            return long(args.videos or [render(folder / f"long_{kind}", 60, kind, repeats) for kind in LONG])
        paths = args.videos or [render(folder / f"key_frame_every_{gop}.mp4", gop) for gop in (12, 250)]
        if args.mode == "speed":
            return speed(paths, args)
        data = Path(paths[0]).read_bytes()
        quarter = len(data) // 4
        for n in range(4):
            damaged = data[: n * quarter] + bytes(quarter) + data[(n + 1) * quarter :]
            (folder / f"damaged{n}.mp4").write_bytes(damaged)
        leak([*paths, *map(str, sorted(folder.glob("damaged*")))], args)


if __name__ == "__main__":
    main()
