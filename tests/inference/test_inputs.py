"""Arguments of commands that name videos: files, folders, frame folders, tar members and lists."""

import os
import re

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.inputs import find_videos


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "sub/a.AVI", "sub/notes.txt", ".hidden/c.mp4", "sub/.d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    for name in ("00001.jpg", "00002.jpg", "Thumbs.db"):
        (tmp_path / "frames" / name).touch()
    (tmp_path / "list.txt").write_text("b.mp4 3\nframes\n")
    return tmp_path


def find(folder, *names):
    samples = find_videos([str(folder / name) for name in names], load_config(None, ["NUM_GPUS", 0]))
    return [(sample.path.removeprefix(f"{folder}/"), sample.frames, sample.labels) for sample in samples]


def test_videos_folders_and_lists_without_repeats(folder):
    assert find(folder, "b.mp4") == [("b.mp4", None, ())]
    assert find(folder, "frames") == [("frames", 2, ())]
    assert find(folder, "", "list.txt", "b.mp4") == [("b.mp4", None, ()), ("sub/a.AVI", None, ()), ("frames", 2, ())]
    assert find(folder, "gone.mp4", "s.tar/x.mp4@0+9") == [("gone.mp4", None, ()), ("s.tar/x.mp4@0+9", None, ())]


def test_paths_below_the_prefix_of_the_run(folder, monkeypatch, caplog):
    """The current folder comes first; where a path is in neither, both places are named."""
    (folder / "here" / "sub").mkdir(parents=True)
    (folder / "here" / "b.mp4").touch()
    monkeypatch.chdir(folder / "here")
    cfg = load_config(None, ["NUM_GPUS", 0, "DATA.PATH_PREFIX", str(folder)])
    given = ["b.mp4", "sub/a.AVI", "frames", "gone.mp4", str(folder / "away.mp4")]
    found = [sample.path for sample in find_videos(given, cfg)]
    assert found == ["b.mp4", f"{folder}/sub/a.AVI", f"{folder}/frames", "gone.mp4", str(folder / "away.mp4")]
    assert caplog.messages == [f"gone.mp4: neither in the current folder nor at {folder}/gone.mp4 (DATA.PATH_PREFIX)"]


def test_folders_of_frames_and_of_frame_folders(folder, tmp_path):
    (folder / "series").mkdir()
    for clip, names in {"c1": ("img_000.png", "img_001.png"), "c2/x": ("1.jpg",), "c3": ("a_1.png", "b_1.png")}.items():
        (folder / "series" / clip).mkdir(parents=True)
        for name in (*names, "Thumbs.db"):
            (folder / "series" / clip / name).touch()
    frames = [("series/c1", 2, ()), ("series/c2/x", 1, ()), ("series/c3", None, ())]
    assert find(folder, "series") == frames and find(folder, "series/c1") == frames[:1]
    template = "DATA.IMAGE_TEMPLATE {:05d}.jpg says: set the key to a_{}.png or b_{}.png"
    with pytest.raises(VideoError, match=re.escape(template)):
        open_sample(Sample(str(folder / "series/c3"), UNLABELLED), "{:05d}.jpg")
    (folder / "series" / "c1" / "film.mkv").touch()  # the images beside a video are no frames
    assert find(folder, "series") == [("series/c1/film.mkv", None, ())]


def test_links_to_folders_are_followed(folder):
    (folder / "linked").mkdir()
    (folder / "linked" / "videos").symlink_to(folder / "sub")
    (folder / "linked" / "circle").symlink_to(folder)
    assert find(folder, "linked") == [("linked/videos/a.AVI", None, ())]


def test_folders_that_cannot_be_read_are_named(folder, monkeypatch, caplog):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find(folder, "") == [("b.mp4", None, ())] and "sub: the folder cannot be read" in caplog.text
    with pytest.raises(UserError, match="sub: the folder cannot be read .Permission denied"):
        find(folder, "sub")


def test_folders_without_videos_are_refused(folder):
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").touch()
    with pytest.raises(UserError, match="notes: a folder without videos or frame folders, but 1 .txt"):
        find(folder, "notes")
    with pytest.raises(UserError, match="empty: a folder without any files. Videos end in .*.mp4"):
        find(folder, "empty")
    with pytest.raises(UserError, match="none.lst: cannot read the list of videos"):
        find(folder, "none.lst")
