import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import load_script
from PIL import Image

from slowfast_uniformer.errors import UserError

SCRIPT = Path(__file__).resolve().parents[1] / "datasets" / "make_demo.py"
TINY = dict(train=16, val=9, size=32, frames=6)


demo = load_script("datasets/make_demo.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "demo"
    assert demo.make_demo(out, **TINY)
    return out


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rows(path):
    return [line.split(" ") for line in path.read_text().splitlines()]


def plain_look(shape="square", texture="noise"):
    colours = np.array([[250, 200, 150], [10, 60, 90]], dtype=np.float32)
    patch = np.random.default_rng(0).permutation(36).reshape(6, 6) % 2
    return demo.Look(shape, texture, 4.0, patch, colours, np.full((48, 48, 3), 120, np.float32))


def close(first, second):
    """Equal but for pixels that rounding puts on the other side of an edge."""
    return np.abs(first.astype(int) - second).mean() < 0.5


def picture(across=0.5, down=0.5, zoom=0.5, turn=0.0, **look):
    return demo.draw_frames(np.array([[across], [down], [zoom], [turn]]), plain_look(**look), 48)[0]


def test_videos_are_h264_and_show_the_clip(folder):
    path = folder / "videos" / "left" / "left_0001.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 25)
    clip = demo.render_clip("left", np.random.default_rng((0, 0, demo.CLASSES.index("left"))), 32, 6)
    decoded = decode(path)
    assert decoded.shape == clip.shape == (6, 32, 32, 3)
    assert np.abs(decoded.mean(-1) - clip.mean(-1)).mean() < 8


def test_lists(folder):
    names = (folder / "classes.txt").read_text().splitlines()
    assert names == sorted(names) and len(names) == 8
    train, val = rows(folder / "train.csv"), rows(folder / "val.csv")
    assert (len(train), len(val)) == (16, 9)
    assert not {path for path, _ in train} & {path for path, _ in val}
    assert (folder / "test.csv").read_text() == (folder / "val.csv").read_text()
    assert {path for path, _ in train + val} == {
        str(path.relative_to(folder / "videos")) for path in folder.rglob("*.mp4")
    }
    assert all(names[int(label)] == path.split("/")[0] for path, label in train + val)
    assert [label for _, label in train] == [str(k) for k in range(8)] * 2


def test_frame_folders(folder, monkeypatch, tmp_path):
    listed = rows(folder / "sth" / "train.csv") + rows(folder / "sth" / "val.csv")
    assert len(listed) == 25
    for name, count, label in listed:
        pictures = sorted((folder / "frames" / name).iterdir())
        assert [path.name for path in pictures] == [f"{k:05d}.jpg" for k in range(1, int(count) + 1)]
        assert demo.CLASSES[int(label)] == name[:-5]
    video = decode(folder / "videos" / "up" / "up_0001.mp4").astype(float).mean(-1)
    still = np.asarray(Image.open(folder / "frames" / "up_0001" / "00004.jpg")).astype(float).mean(-1)
    assert np.abs(video - still).mean(axis=(1, 2)).argmin() == 3
    monkeypatch.setattr(demo, "STH_TRAIN", 3)
    demo.make_demo(tmp_path / "few", train=8, val=2, size=16, frames=1)
    assert len(rows(tmp_path / "few" / "sth" / "train.csv")) == 3
    assert len(rows(tmp_path / "few" / "sth" / "test.csv")) == 2


def test_rendered_once(folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(demo, "render_job", None)
    assert not demo.make_demo(folder, **TINY)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_interrupted_rendering_leaves_nothing_and_is_done_again(folder, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    render, done = demo.render_job, []

    def interrupted(job, **arguments):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(render(job, **arguments))

    monkeypatch.setattr(demo, "render_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.make_demo(out, **TINY)
    assert not out.exists()
    monkeypatch.undo()
    assert demo.make_demo(out, **TINY)
    assert contents(out) == contents(folder)
    assert list(tmp_path.iterdir()) == [out]


def test_an_unstamped_or_different_set_is_rendered_again(tmp_path):
    sizes = dict(train=8, val=1, size=16, frames=2)
    assert demo.make_demo(tmp_path / "demo", **sizes)
    (tmp_path / "demo" / "complete.json").unlink()
    assert demo.make_demo(tmp_path / "demo", **sizes)
    old = contents(tmp_path / "demo")
    assert demo.make_demo(tmp_path / "demo", seed=1, **sizes)
    new = contents(tmp_path / "demo")
    assert json.loads(new["complete.json"])["seed"] == 1
    assert all(old[name] != new[name] for name in old if name.endswith(".mp4"))


def test_same_bytes_whatever_the_workers(tmp_path):
    command = [sys.executable, SCRIPT, "--train", "9", "--val", "3", "--seed", "5"]
    for workers in ("1", "2"):
        subprocess.run([*command, "--out", tmp_path / workers, "--workers", workers], check=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_workers_end_where_sigterm_is_ignored(tmp_path):
    """Processes inherit that, and then are not ended by it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    command = [sys.executable, SCRIPT, "--train", "9", "--val", "3", "--out", tmp_path / "demo"]
    subprocess.run([*command, "--workers", "2"], check=True, timeout=100)


def test_held_out_clips_do_not_depend_on_the_number_of_training_clips():
    keys = [[job.key for job in demo.plan(train, 8, 0)[train:]] for train in (8, 24)]
    assert keys[0] == keys[1]
    everything = [job.key for job in demo.plan(24, 24, 0)]
    assert len(set(everything)) == 48


@pytest.mark.parametrize("bad", [dict(train=0), dict(val=0), dict(size=33), dict(frames=0), dict(seed=-1)])
def test_impossible_sizes(bad, tmp_path):
    with pytest.raises(UserError, match="1 or more"):
        demo.make_demo(tmp_path / "demo", **{**TINY, **bad})
    assert not list(tmp_path.iterdir())


def test_other_peoples_files_stay(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    command = [sys.executable, SCRIPT, "--out", tmp_path, "--train", "1", "--val", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "thesis.txt" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_equal_draws_give_equal_looks_and_different_motions():
    clips = {name: demo.render_clip(name, np.random.default_rng(3), 32, 2) for name in demo.CLASSES}
    places = [name for name in demo.CLASSES if demo.MOTIONS[name][0] != demo.SIZE]
    for name in places:
        assert np.array_equal(clips[name][0], clips["left"][0])
    assert len({clip.tobytes() for clip in clips.values()}) == 8


@pytest.fixture(scope="module")
def phases():
    """1,500 draws of the phases of each class, (1500, 4, 32)."""
    return {
        name: np.stack([demo.draw_phases(name, 32, np.random.default_rng((7, k))) for k in range(1500)])
        for name in demo.CLASSES
    }


def test_places_and_turns_are_uniform_at_every_moment_of_every_class(phases):
    """By the Kolmogorov-Smirnov distance; and no two phases go together, by their circular correlation."""
    count = 1500
    steps, limit = np.arange(1, count + 1) / count, 2.4 / np.sqrt(count)  # chance passes the limit once in 50,000
    for name, drawn in phases.items():
        for moment in (0, 4, 16, 31):
            at = drawn[:, :, moment]
            distance = np.abs(np.sort(at, axis=0) - steps[:, None]).max(axis=0)
            assert (distance[[0, 1, 3]] < limit).all(), (name, moment, distance)
            waves = np.exp(2j * np.pi * at)
            waves -= waves.mean(axis=0)
            dependence = np.abs(waves.T @ waves.conj() / count)
            np.fill_diagonal(dependence, 0)
            assert dependence.max() < 0.12, (name, moment, dependence)


def test_sizes_grow_or_shrink_without_a_jump_and_are_alike_on_average(phases):
    reference = np.sort(phases["left"][:, demo.SIZE].flatten())
    for name, drawn in phases.items():
        sizes = drawn[:, demo.SIZE]
        steps = np.diff(sizes, axis=1)
        sign = {"approaching": 1, "receding": -1}.get(name, 0)
        assert (np.sign(steps) == sign).all(), name
        assert 0 <= sizes.min() and sizes.max() < 1
        if sign:
            assert np.abs(sizes[:, -1] - sizes[:, 0]).min() > 0.6
        assert np.abs(np.sort(sizes.flatten()) - reference).mean() < 0.03, name


def test_a_single_frame_tells_the_class_of_fewer_than_40_percent(phases):
    """Of one frame nothing but the size depends on the class: the accuracy of the best guess from size and time."""
    for moment in range(0, 32, 4):
        densities = [
            np.histogram(drawn[:, demo.SIZE, moment], bins=25, range=(0, 1))[0] / len(drawn)
            for drawn in phases.values()
        ]
        assert np.max(densities, axis=0).sum() / len(demo.CLASSES) < 0.4


@pytest.mark.parametrize(
    ("motion", "across", "down"), [("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1)]
)
def test_translations_move_the_shape(motion, across, down):
    phases = demo.draw_phases(motion, 2, np.random.default_rng(0))
    phases -= phases[:, :1] - 0.5
    clip = demo.draw_frames(phases, plain_look(), 48)
    row, column = [
        np.diff([np.argwhere((frame != 120).any(-1))[:, axis].mean() for frame in clip])[0] for axis in (0, 1)
    ]
    assert np.sign(np.round([column, row])).tolist() == [across, down]


def test_turning_and_growing_directions():
    assert close(np.rot90(picture(turn=0.0), -1), picture(turn=0.25))  # -1: a quarter clockwise
    assert not close(np.rot90(picture(turn=0.0), 1), picture(turn=0.25))
    areas = [(picture(zoom=zoom) != 120).any(-1).sum() for zoom in (0.0, 0.5, 0.99)]
    assert areas == sorted(areas) and areas[2] > 5 * areas[0]
    for row, (up, down) in {2: ("approaching", "receding"), 3: ("clockwise", "counter_clockwise")}.items():
        for name, sense in ((up, 1), (down, -1)):
            step = np.diff(demo.draw_phases(name, 2, np.random.default_rng(0)), axis=1)[:, 0]
            step = (step + 0.5) % 1 - 0.5
            assert np.flatnonzero(step).tolist() == [row] and np.sign(step[row]) == sense


@pytest.mark.parametrize("shape", sorted(demo.SHAPES))
@pytest.mark.parametrize("texture", sorted(demo.TEXTURES))
def test_every_shape_is_seen_whole_and_turning_shows(shape, texture):
    centre = picture(zoom=0.999, shape=shape, texture=texture)
    assert (centre[[0, -1]] == 120).all() and (centre[:, [0, -1]] == 120).all()
    shifted = picture(across=0.0, down=0.0, zoom=0.999, shape=shape, texture=texture)
    assert close(np.roll(centre, (24, 24), axis=(0, 1)), shifted)
    turned = picture(zoom=0.999, turn=4 * demo.SPEEDS[3][0], shape=shape, texture=texture)
    assert np.abs(turned.astype(int) - centre).mean() > 3
