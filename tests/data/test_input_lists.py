"""Lists of videos given to commands: every format, and where the paths are searched."""

import tarfile

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import shards
from slowfast_uniformer.data.annotations import UNLABELLED
from slowfast_uniformer.data.input_lists import count_frames, path_sample, read_input_list
from slowfast_uniformer.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Videos that exist by name: files, a frame folder of three images and a stray file, a tar."""
    for name in ("a.mp4", "b c.mp4", "d,e.mp4", "f 7"):
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    for name in ("00001.jpg", "00002.jpg", "00003.jpg", "notes.txt"):
        (tmp_path / "frames" / name).touch()
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(tmp_path / "a.mp4", "g h.mp4")
    return tmp_path


def read(folder, text, *overrides, encoding="utf-8"):
    (folder / "list.csv").write_text(text, encoding=encoding)
    samples = read_input_list(str(folder / "list.csv"), load_config(None, ["NUM_GPUS", 0, *overrides]))
    assert all(sample.label == UNLABELLED for sample in samples)
    return [(sample.path.removeprefix(f"{folder}/"), sample.frames) for sample in samples]


MULTI = ("DATA.MULTI_LABEL", True)
STH = ("TEST.DATASET", "sth")


@pytest.mark.parametrize(
    ("line", "overrides", "expected"),
    [
        ("a.mp4", (), ("a.mp4", None)),
        ("a.mp4 3", (), ("a.mp4", None)),
        ("b c.mp4", (), ("b c.mp4", None)),
        ("b c.mp4 3", (), ("b c.mp4", None)),
        ("d,e.mp4,3", (), ("d,e.mp4", None)),
        ("d,e.mp4, 3", (), ("d,e.mp4", None)),
        ("a.mp4\t3", (), ("a.mp4", None)),
        ("a.mp4;3", ("DATA.PATH_LABEL_SEPARATOR", ";"), ("a.mp4", None)),
        ("a.mp4|3", ("DATA.PATH_LABEL_SEPARATOR", "|"), ("a.mp4", None)),
        ("a.mp4 -1", (), ("a.mp4", None)),
        ("f 7", (), ("f 7", None)),
        ("a.mp4 3,17", MULTI, ("a.mp4", None)),
        ("d,e.mp4 3,17", MULTI, ("d,e.mp4", None)),
        ("a.mp4 -", MULTI, ("a.mp4", None)),
        ("a.mp4 -", (), ("a.mp4", None)),
        ("a.mp4 30.0 1.5 4.0 2", ("TEST.DATASET", "ant"), ("a.mp4", None)),
        ("a.mp4 30.0 1.5 4.0 2", (), ("a.mp4", None)),
        ("frames", (), ("frames", 3)),
        ("frames 2 5", STH, ("frames", 2)),
        ("frames,2,5", STH, ("frames", 2)),
        ("frames 2 5", (), ("frames", 3)),
        ("s.tar/g h.mp4", (), ("s.tar/g h.mp4", None)),
        ("s.tar/g h.mp4 3", (), ("s.tar/g h.mp4", None)),
        ("s.tar/g h.mp4@512+20", (), ("s.tar/g h.mp4@512+20", None)),
        ("s.tar/g h.mp4@512+20 3", (), ("s.tar/g h.mp4@512+20", None)),
        ("s.tar/g h.mp4@512+20 3,17", MULTI, ("s.tar/g h.mp4@512+20", None)),
        ("s.tar/g h.mp4@512+20 -", MULTI, ("s.tar/g h.mp4@512+20", None)),
        ("gone.mp4 3", (), ("gone.mp4", None)),
    ],
)
def test_lines_of_every_format(folder, line, overrides, expected):
    for place in ((), ("DATA.PATH_PREFIX", str(folder))):
        assert read(folder, f"\n{line}\n", *overrides, *place) == [expected]
    assert read(folder, f"{line}\n", *overrides, encoding="utf-8-sig") == [expected]


def test_the_prefix_is_expanded_and_searched_before_other_places(folder, monkeypatch):
    (folder / "other").mkdir()
    (folder / "other" / "a.mp4").touch()
    prefix = ("DATA.PATH_PREFIX", "${MY_VIDEOS:-" + str(folder / "other") + "}")
    monkeypatch.delenv("MY_VIDEOS", raising=False)
    assert read(folder, "a.mp4 3\nb c.mp4 3\n", *prefix) == [("other/a.mp4", None), ("b c.mp4", None)]
    monkeypatch.setenv("MY_VIDEOS", str(folder))
    assert read(folder, "a.mp4 3\n", *prefix) == [("a.mp4", None)]
    monkeypatch.chdir(folder / "other")
    monkeypatch.delenv("MY_VIDEOS")
    assert read(folder, "a.mp4 3\n", "DATA.PATH_PREFIX", "nowhere") == [("a.mp4", None)]


def test_lists_that_cannot_be_read(folder):
    for content, message in ((b" \n", "the list of videos is empty"), (b"a.mp4\n\xff", "not a text file in UTF-8")):
        (folder / "list.csv").write_bytes(content)
        with pytest.raises(UserError, match=f"list.csv.*: .*{message}"):
            read_input_list(str(folder / "list.csv"), load_config(None, ["NUM_GPUS", 0]))
    with pytest.raises(UserError, match="none.csv: cannot read the list of videos .No such file"):
        read_input_list(str(folder / "none.csv"), load_config(None, ["NUM_GPUS", 0]))


def test_frames_are_counted_by_their_names(folder):
    assert count_frames(str(folder / "frames"), "{:05d}.jpg") == 3
    assert count_frames(str(folder / "frames"), "img_{:05d}.jpg") == 3
    assert count_frames(str(folder / "a.mp4"), "{}.jpg") == count_frames(str(folder / "gone"), "{}.jpg") == 0
    assert path_sample(str(folder / "frames"), "{:05d}.jpg").frames == 3
    assert path_sample(str(folder / "a.mp4"), "{:05d}.jpg").frames is None


@pytest.mark.parametrize(
    "text",
    [
        "video\nb c.mp4\na.mp4\n",
        "label,video\nwave,b c.mp4\n0,a.mp4\n",
        ",video,label\n0,b c.mp4,0\n1,a.mp4,1\n",
        "0,b c.mp4,0\n1,a.mp4,1\n",
        "b c.mp4\tice skating\na.mp4\twave\n",
        "b c.mp4 ice skating\na.mp4 wave\n",
        '"b c.mp4",0\n"a.mp4",1\n',
        '"b c.mp4","throw, catch"\n"a.mp4","wave"\n',
        "b c.mp4;0\na.mp4;1\n",
        "wave,b c.mp4\nwave,a.mp4\n",
        "b c.mp4\r\na.mp4\r\n",
        "b c.mp4\ra.mp4\r",
        "# a comment\nb c.mp4\na.mp4\n",
        "video,label,label_name,prediction\nb c.mp4,0,wave,1\na.mp4,0,wave,1\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lists_as_people_have_them(folder, text, encoding):
    assert read(folder, text, encoding=encoding) == [("b c.mp4", None), ("a.mp4", None)]
    assert read(folder, "gone.mp4\twave\n") == [("gone.mp4", None)]


def test_names_of_files_that_look_like_something_else(folder):
    for name in ("#a.mp4", "0 intro.mp4", "x\u2028y.mp4", '"q"', "path"):
        (folder / name).touch()
        assert read(folder, f"{name}\na.mp4\n") == [(name, None), ("a.mp4", None)]


def test_nothing_is_looked_for_after_a_path_that_is_there(folder, monkeypatch):
    """On a network file system each look takes a millisecond, and lists can be long."""
    exists, looked_for = shards.exists, []
    monkeypatch.setattr(shards, "exists", lambda path: looked_for.append(path) or exists(path))
    assert read(folder, "a.mp4 3\n" * 100, "DATA.PATH_PREFIX", str(folder)) == [("a.mp4", None)] * 100
    # of each line: the whole line in three folders, and then the path in the first
    assert len(looked_for) <= 3 + 100 * 4
