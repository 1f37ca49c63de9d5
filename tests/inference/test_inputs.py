"""Arguments of commands that name videos: files, folders, frame folders, tar members and lists."""

import pytest

from slowfast_uniformer.config.load import load_config
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


def test_folders_without_videos_are_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: a folder without videos .*.mp4"):
        find(folder, "empty")
    with pytest.raises(UserError, match="none.lst: cannot read the list of videos"):
        find(folder, "none.lst")
