"""Rewriting a collection: frames, times and colours stay; lists, resumption, what fails."""

import errno
import json
import os
import tarfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_factory import VIDEOS, X264, display_matrix, make, pictures, rotate, write_video

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import encode, transcode
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.encode import Original, Settings, scaled_size
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError

TEMPLATE = "{:05d}.jpg"
DEFAULT = Settings()
SMALL = dict(frames=20, size=(64, 48), **X264)


def rewrite(path, target, settings=DEFAULT, frames=None) -> dict:
    return encode.encode(Sample(str(path), -1, frames), str(target), settings, TEMPLATE)


def frames_of(path, size=None) -> np.ndarray:
    """All frames in RGB, as the reader shows them."""
    with open_sample(Sample(str(path), -1), TEMPLATE) as video:
        info = video.info
        width, height = size or (info.width, info.height)
        shown = {number: video._to_rgb(frame, width, height) for number, frame in video._decode([*range(video.frames)])}
        return np.stack([shown[number] for number in range(video.frames)])


def psnr(images, others) -> float:
    return 10 * np.log10(255**2 / max(np.mean((images.astype(float) - others) ** 2), 1e-9))


def times_of(path) -> list[Fraction]:
    with Original(path) as video:
        times, unit = video.time_stamps()
        return [time * unit for time in times]


def pixel_format(path) -> tuple[str, int]:
    with av.open(str(path)) as container:
        return container.streams.video[0].pix_fmt, len(container.streams)


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_is_kept_in_its_place(tmp_path, name):
    source = make(tmp_path, name)
    if source is None:
        pytest.skip("no encoder")
    target = tmp_path / "out" / "new.mp4"
    try:
        with Original(source) as video:
            everything = [number for number, _ in video._decode([*range(video.frames)])]
    except VideoError:
        with pytest.raises(VideoError):
            rewrite(source, target)
        assert list((tmp_path / "out").iterdir()) == []
        return
    facts = rewrite(source, target)
    new = frames_of(target)
    size = new.shape[2], new.shape[1]
    old = frames_of(source, size)
    least = 22 if name.endswith(".gif") else 30  # small pictures of sharp colours, dithered
    assert len(new) == len(everything) and psnr(old, new) > least, facts
    middle = len(new) // 2
    errors = [psnr(image, new[middle]) for image in old]
    assert errors[middle] >= max(errors) - 1e-6
    assert pixel_format(target) == ("yuv420p", 1)
    with Original(source) as video, Original(target) as written:
        assert written.fps == pytest.approx(video.fps, rel=2e-3)
        assert written._seekable and written.info.rotation == 0 and written.aspect == 1
        keys = [written._index.rank[at] for at in written._index.keys]
    assert keys == list(range(0, len(new), 16)) and times_of(target) == times_of(source)


def test_the_file_is_the_same_each_time_and_holds_no_trace_of_its_place(tmp_path):
    source = write_video(tmp_path / "a.mp4", **SMALL)
    for name in ("x.mp4", "deep/y.mp4"):
        rewrite(source, tmp_path / name)
    assert (tmp_path / "x.mp4").read_bytes() == (tmp_path / "deep/y.mp4").read_bytes()
    head = (tmp_path / "x.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")


@pytest.mark.parametrize("start", [0, 7, -4])
def test_variable_times_stay(tmp_path, start):
    times = [start + time for time in (0, 1, 2, 5, 6, 9, 10, 11, 30, 31)]
    source = write_video(tmp_path / "a.mkv", frames=10, bframes=0, size=(64, 48), times=times, **X264)
    rewrite(source, tmp_path / "b.mp4")
    with Original(source) as video:
        raw = [video._index.packets[at].pts for at in video._index.order]
    written = times_of(tmp_path / "b.mp4")
    assert np.diff(written).tolist() == [Fraction(step, 1000) for step in np.diff(raw).tolist()]
    assert written[0] == max(Fraction(raw[0], 1000), 0)


@pytest.mark.parametrize(("fps", "numbers"), [(25, range(20)), (12.5, range(0, 20, 2)), (50, np.arange(40) // 2)])
def test_a_new_frame_rate(tmp_path, fps, numbers):
    source = write_video(tmp_path / "a.mp4", **SMALL)
    rewrite(source, tmp_path / "b.mp4", Settings(fps=fps))
    new, old = frames_of(tmp_path / "b.mp4"), frames_of(source)
    assert len(new) == len(numbers) and psnr(old[list(numbers)], new) > 34
    assert times_of(tmp_path / "b.mp4") == [number / Fraction(fps) for number in range(len(numbers))]


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [
        ((640, 480), 1, (426, 320)),
        ((1280, 720), 1, (568, 320)),
        ((340, 256), 1, (340, 256)),
        ((65, 49), 1, (64, 48)),
        ((1, 1), 1, (2, 2)),
        ((96, 64), 2, (192, 64)),
        ((720, 576), Fraction(16, 15), (426, 320)),
        ((480, 640), Fraction(1, 2), (240, 640)),
    ],
)
def test_sizes_are_even_square_and_not_larger(size, aspect, expected):
    assert scaled_size(*size, Fraction(aspect), 320) == expected


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_and_wide_pixels(tmp_path, degrees):
    source = rotate(
        write_video(tmp_path / "a.mp4", frames=3, size=(96, 48), **{"x264-params": "log=-1:sar=2/1"}), degrees
    )
    rewrite(source, tmp_path / "b.mp4")
    size = (192, 48) if degrees == 180 else (48, 192)  # the width that is stored is the height that is shown
    new = frames_of(tmp_path / "b.mp4")
    assert new.shape[1:3] == size[::-1] and psnr(frames_of(source, size), new) > 33


def test_mirrored(tmp_path):
    source = display_matrix(write_video(tmp_path / "a.mp4", **SMALL), -1, 0, 0, 1)
    rewrite(source, tmp_path / "b.mp4")
    with Original(tmp_path / "b.mp4") as video:
        assert not video.info.mirrored
    assert psnr(frames_of(source), frames_of(tmp_path / "b.mp4")) > 33


@pytest.mark.parametrize(("tag", "found"), [("", 2), ("bt709", 1), ("smpte170m", 6)])
def test_colour_tags_stay(tmp_path, tag, found):
    params = "log=-1" + (f":colormatrix={tag}:colorprim={tag}" if tag else "")
    source = write_video(tmp_path / "a.mp4", frames=3, size=(96, 64), **{"x264-params": params})
    for settings in (Settings(), Settings(short_side=32)):
        rewrite(source, tmp_path / "b.mp4", settings)
        with Original(tmp_path / "b.mp4") as video:
            frame = next(video._decode([0]))[1]
        assert frame.colorspace == found
        size = frame.width, frame.height
        assert psnr(frames_of(source, size), frames_of(tmp_path / "b.mp4")) > 32


def test_noise_gets_the_bits_that_it_needs(tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (4, 64, 64), np.uint8)
    folder = tmp_path / "noise"
    folder.mkdir()
    for number, image in enumerate(noise, 1):
        Image.fromarray(image).save(folder / f"{number:05d}.png")
    facts = rewrite(folder, tmp_path / "b.mp4")
    assert facts["crf"] < encode.CRF and psnr(frames_of(folder), frames_of(tmp_path / "b.mp4")) > 35
    assert rewrite(folder, tmp_path / "c.mp4", Settings(crf=30))["crf"] == 30
    assert psnr(frames_of(folder), frames_of(tmp_path / "c.mp4")) < 35


@pytest.fixture
def collection(tmp_path):
    """Videos of two classes, of all kinds."""
    root = tmp_path / "videos"
    for name in ("run/a.mp4", "run/a.mkv", "run/a.avi.mp4", "sit/b c.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, **SMALL)
    write_video(root / "run/a.avi", codec="mpeg4", frames=5, size=(64, 48), bframes=0)
    (tmp_path / "images/sit/frames").mkdir(parents=True)
    for number, picture in enumerate(pictures(5, 64, 48), 1):
        Image.fromarray(picture).save(tmp_path / "images/sit/frames" / f"img_{number}.jpg")
    with tarfile.open(root.parent / "t.tar", "w") as archive:
        archive.add(root / "sit/b c.mp4", "x/b.mp4")
    (root / "sit/broken.mp4").write_bytes(b"not a video")
    (root / "classes.txt").write_text("run\nsit\n")
    return root


def config(prefix="", dataset="kinetics"):
    return load_config(None, ["DATA.PATH_PREFIX", str(prefix), "TEST.DATASET", dataset], runs_here=False)


def run(named, out, settings=DEFAULT, workers=0) -> dict:
    jobs = transcode.make_jobs(named, str(out), settings, TEMPLATE)
    journal = transcode.read_journal(str(out))
    left = [job for job in jobs if not transcode.is_done(job, journal)]
    return {job.target: facts for job, facts in transcode.transcode(left, workers)}


def named_in(folder, out) -> list:
    samples = transcode.find_videos(str(folder), str(out), TEMPLATE)
    return [(sample, os.path.relpath(sample.path, folder)) for sample in samples]


def contents(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mp4")}


def test_a_tree_is_kept_and_names_do_not_collide(collection):
    out = collection / "new"  # inside the folder: it is not read itself
    assert "not a video" in run(named_in(collection, out), out)["sit/broken.mp4"]["error"]
    frames = {name: len(frames_of(out / name)) for name in contents(out)}
    others = {"run/a.mp4": 20, "run/a.avi.mp4": 20, "run/a.mkv.mp4": 20, "sit/b c.mp4": 20}
    assert frames == {"run/a.avi.2.mp4": 5} | others
    assert [*run(named_in(collection, out), out)] == ["sit/broken.mp4"]


def test_a_folder_of_frame_folders(collection):
    out = collection.parent / "new"
    assert [*run(named_in(collection.parent / "images", out), out)] == ["sit/frames.mp4"]
    assert len(frames_of(out / "sit/frames.mp4")) == 5


def test_a_run_that_was_killed_continues_with_the_same_files(collection, monkeypatch):
    whole, out = collection.parent / "whole", collection.parent / "new"
    run(named_in(collection, whole), whole)
    write, count = encode._write, []

    def killed(video, path, *arguments):
        count.append(path)
        if len(count) == 3:
            with open(path, "wb") as file:
                file.write(b"half")
            os.link(path, os.path.join(os.path.dirname(path), ".99999." + os.path.basename(path).split(".", 2)[2]))
            raise KeyboardInterrupt
        return write(video, path, *arguments)

    monkeypatch.setattr(encode, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(named_in(collection, out), out)
    assert len(contents(out)) < len(contents(whole))
    monkeypatch.undo()
    with open(out / "transcode.jsonl", "a") as file:
        file.write('{"target": "run/')  # cut off
    left = run(named_in(collection, out), out)
    assert 0 < len(left) < len(contents(whole)) and contents(out) == contents(whole)
    assert [*run(named_in(collection, out), out)] == ["sit/broken.mp4"], "all others are done"
    assert [path.name for path in out.rglob(".*")] == []


def test_what_has_changed_is_written_again(collection):
    out = collection.parent / "new"
    run(named_in(collection, out), out)
    write_video(collection / "run/a.mkv", **SMALL | {"frames": 8})
    (out / "sit/b c.mp4").unlink()
    assert {*run(named_in(collection, out), out)} == {"run/a.mkv.mp4", "sit/b c.mp4", "sit/broken.mp4"}
    assert len(run(named_in(collection, out), out, Settings(gop=4))) == len(contents(out)) + 1


def test_a_file_of_someone_else_is_not_replaced(collection):
    out = collection.parent / "new"
    (out / "run").mkdir(parents=True)
    own = write_video(out / "run/a.mp4", **SMALL).read_bytes()
    assert "is there already" in run(named_in(collection, out), out)["run/a.mp4"]["error"]
    assert (out / "run/a.mp4").read_bytes() == own
    with pytest.raises(UserError, match="transcoded video would overwrite it"):
        run(named_in(collection, collection.parent / "other"), collection)


def test_a_full_disk_ends_the_work(collection, monkeypatch):
    out = collection.parent / "new"

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(encode._Muxer, "write", full)
        with pytest.raises(UserError, match="No space left on device.*run the same command again to continue"):
            run(named_in(collection, out), out)
    assert contents(out) == {} and [*out.rglob(".*")] == []
    assert len(run(named_in(collection, out), out)) > len(contents(out)) > 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run/a.mp4 0\nsit/b c.mp4 1\n", "run/a.mp4 0\nsit/b c.mp4 1\n"),
        ("# mine\r\nrun/a.mkv 0\r\nsit/broken.mp4 1\r\n", "# mine\r\nrun/a.mp4 0\r\n"),
        ("path,label\nrun/a.avi,run\n", "path,label\nrun/a.mp4,run\n"),
        ('label\tpath\nsit\t"sit/b c.mp4"\n', 'label\tpath\nsit\t"sit/b c.mp4"\n'),
        ("sit/frames 3 1\n", "sit/frames.mp4 3 1\n"),
        ("run/a.mkv 10 2 5 0\nrun/a.mkv 10 6 9 1\n", "run/a.mp4 10 2 5 0\nrun/a.mp4 10 6 9 1\n"),
        ("../t.tar/x/b.mp4 1\n", None),
    ],
)
def test_a_list_keeps_its_form(collection, text, expected):
    path, out = collection.parent / "train.csv", collection.parent / "new"
    path.write_bytes(text.encode())
    is_frames = "frames" in text
    prefix = collection.parent / "images" if is_frames else collection
    lines = transcode.read_list(str(path), config(prefix, "sth" if is_frames else "kinetics"))
    named = [(line.sample, transcode.relative_name(line.name, "")) for line in lines if line.sample]
    jobs = transcode.make_jobs(named, str(out), Settings(), TEMPLATE)
    done = {
        os.path.abspath(job.path): job.target for job, facts in transcode.transcode(jobs, 0) if "error" not in facts
    }
    transcode.write_list(str(path), lines, done, str(out))
    new = (out / "train.csv").read_bytes().decode()
    if expected is not None:
        assert new == expected
    for line in transcode.read_list(str(out / "train.csv"), config(out)):
        assert line.sample is None or os.path.isfile(line.sample.path)
    if is_frames:
        assert len(frames_of(out / "sit/frames.mp4")) == 3, "as many as the list says"


def test_a_tar_member_and_an_absolute_path(collection):
    tar, out = collection.parent / "t.tar", collection.parent / "new"
    path = collection.parent / "val.csv"
    with tarfile.open(tar) as archive:
        member = archive.getmember("x/b.mp4")
    path.write_text(f"t.tar/x/b.mp4@{member.offset_data}+{member.size} 1\n{collection}/run/a.mp4 0\n")
    lines = transcode.read_list(str(path), config(collection.parent))
    named = [(line.sample, transcode.relative_name(line.name, str(collection))) for line in lines if line.sample]
    assert [name for _, name in named] == ["t.tar/x/b.mp4", "run/a.mp4"]
    found = run(named, out)
    assert found["t.tar/x/b.mp4"]["before"]["bytes"] == member.size
    targets = {os.path.abspath(sample.path): name for sample, name in named}
    transcode.write_list(str(path), lines, targets, str(out))
    assert (out / "val.csv").read_text() == f"t.tar/x/b.mp4 1\n{out}/run/a.mp4 0\n"
    assert [len(frames_of(out / name)) for _, name in named] == [20, 20]


def test_tars_in_a_folder_and_json_lists_are_refused_with_a_remedy(collection, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([{"id": "1"}]))
    with pytest.raises(UserError, match="JSON list"):
        transcode.read_list(str(tmp_path / "list.json"), config())
    with pytest.raises(UserError, match="uniformer lists"):
        transcode.find_videos(str(collection.parent), "out", TEMPLATE)
