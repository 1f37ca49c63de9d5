"""Lists as people have them: separators, headers, quotes, index columns, class names, and what stays as it was."""

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.errors import UserError

NAMES = ["wave", "jump", "throw, catch", "ice skating"]
VIDEOS = ("a.mp4", "my video.mp4", "x,y.mp4", "left/b.mp4")
STH = ("TRAIN.DATASET", "sth", "DATA.LABEL_PATH_TEMPLATE", "{}.csv")
ANT = ("TRAIN.DATASET", "ant")
MULTI = ("DATA.MULTI_LABEL", True)


@pytest.fixture
def read(tmp_path):
    """Read the text of a train list, of videos that are there."""
    (tmp_path / "left").mkdir()
    for name in VIDEOS:
        (tmp_path / name).touch()
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))

    def call(text, *overrides, encoding="utf-8"):
        (tmp_path / "train.csv").write_bytes(text.encode(encoding))
        base = ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(tmp_path)]
        cfg = load_config(None, [*base, "MODEL.NUM_CLASSES", 4, *overrides])
        samples = annotations.load(cfg, "train")
        return [(sample.path.removeprefix(f"{tmp_path}/"), sample.label) for sample in samples]

    return call


PLAIN = [("my video.mp4", 3), ("a.mp4", 0)]
COMMAS = [("x,y.mp4", 2), ("a.mp4", 0)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("video,label\nmy video.mp4,3\na.mp4,0\n", PLAIN),
        ("label,video\n3,my video.mp4\n0,a.mp4\n", PLAIN),
        ("File Name;Class-ID\nmy video.mp4;3\na.mp4;0\n", PLAIN),
        ("path label\nmy video.mp4 3\na.mp4 0\n", PLAIN),
        ("clip_name,clip_path,label\nv1,my video.mp4,ice skating\nv2,a.mp4,wave\n", PLAIN),
        ("class_name,label,path\nother,3,my video.mp4\nnames,0,a.mp4\n", PLAIN),
        ("# from a script\npath,label\nmy video.mp4,3\n# a.mp4,1\na.mp4,0\n", PLAIN),
        ("my video.mp4\t3\na.mp4\t0\n", PLAIN),
        ("my video.mp4;3\na.mp4;0\n", PLAIN),
        ("my video.mp4|3\na.mp4|0\n", PLAIN),
        ("my video.mp4   3\na.mp4 0\n", PLAIN),
        ("sep=;\nvideo;label\nmy video.mp4;3\na.mp4;0\n", PLAIN),
        ('"my video.mp4",3\n"a.mp4",0\n', PLAIN),
        ('"my video.mp4" 3\n"a.mp4" 0\n', PLAIN),
        ('"my video.mp4","3"\n"a.mp4","0"\n', PLAIN),
        ("'my video.mp4',3\n'a.mp4',0\n", PLAIN),
        ('"x,y.mp4",2\na.mp4,0\n', COMMAS),
        ('video,label\n"x,y.mp4",2\na.mp4,0\n', COMMAS),
        ("video,label\nx,y.mp4,2\na.mp4,0\n", COMMAS),
        (",video,label\n0,my video.mp4,3\n1,a.mp4,0\n", PLAIN),
        ("Unnamed: 0,video,label\n17,my video.mp4,3\n4,a.mp4,0\n", PLAIN),
        ("0,my video.mp4,3\n1,a.mp4,0\n", PLAIN),
        ("17,my video.mp4,3\n4,a.mp4,0\n", PLAIN),
        ("0 my video.mp4 3\n1 a.mp4 0\n", PLAIN),
        (",0,1\n0,my video.mp4,3\n1,a.mp4,0\n", PLAIN),
        ("0,1\nmy video.mp4,3\na.mp4,0\n", PLAIN),
        ('"video" "label"\n"1" "my video.mp4" 3\n"2" "a.mp4" 0\n', PLAIN),
        ("my video.mp4,3.0\na.mp4,0.0\n", PLAIN),
        ("my video.mp4;3,0\na.mp4;0,0\n", PLAIN),
        ("my video.mp4,3.000000e+00\na.mp4,0.000000e+00\n", PLAIN),
        ("\u200bmy video.mp4 3\u200b\n\u202aa.mp4 0\n", PLAIN),
        ("my video.mp4\xa03\na.mp4\xa00\n", PLAIN),
        ("my video.mp4,3,\na.mp4,0,\n", PLAIN),
        ("my video.mp4,3\n,\n\na.mp4,0\n,,\n", PLAIN),
        ("my video.mp4,ice skating\na.mp4,wave\n", PLAIN),
        ("my video.mp4 ice skating\na.mp4 wave\n", PLAIN),
        ("my video.mp4\tIce_Skating\na.mp4\tWAVE\n", PLAIN),
        ("x,y.mp4,throw, catch\na.mp4,wave\n", COMMAS),
        ('"x,y.mp4","throw, catch"\na.mp4,wave\n', COMMAS),
        ("path,label\nx,y.mp4,wave\na.mp4,wave\n", [("x,y.mp4", 0), ("a.mp4", 0)]),
        ("left\\b.mp4,1\na.mp4,0\n", [("left/b.mp4", 1), ("a.mp4", 0)]),
        ("C:\\videos\\a.mp4,1\n", [("C:\\videos\\a.mp4", 1)]),
        ("a\u2028b.mp4 1\nc\x85d\x0c.mp4 0\n", [("a\u2028b.mp4", 1), ("c\x85d\x0c.mp4", 0)]),
    ],
)
def test_lists_as_people_have_them(read, text, expected):
    assert read(text) == expected
    for end in ("\r\n", "\r"):
        assert read(text.replace("\n", end)) == expected
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        if encoding[:6] != "utf-16" or text.isascii():
            assert read(text, encoding=encoding) == expected


@pytest.mark.parametrize("separator", ["\t", "\\t", "\\\\t", "tab", "'\\t'"])
def test_a_tab_on_the_command_line(read, separator):
    text = "my video.mp4\t3\na.mp4\t0\n"
    assert read(text, "DATA.PATH_LABEL_SEPARATOR", separator) == PLAIN


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.mp4 1,3\nmy video.mp4 -\n", [("a.mp4", (1, 3)), ("my video.mp4", ())]),
        ("a.mp4\t1, 3\nmy video.mp4\t-\n", [("a.mp4", (1, 3)), ("my video.mp4", ())]),
        ('path,label\na.mp4,"1,3"\nmy video.mp4,-\n', [("a.mp4", (1, 3)), ("my video.mp4", ())]),
        ('a.mp4,"1,3"\nmy video.mp4,2\n', [("a.mp4", (1, 3)), ("my video.mp4", (2,))]),
        ('0,a.mp4,"1,3"\n1,my video.mp4,2\n', [("a.mp4", (1, 3)), ("my video.mp4", (2,))]),
        ("a.mp4 jump,ice skating\nmy video.mp4 -\n", [("a.mp4", (1, 3)), ("my video.mp4", ())]),
    ],
)
def test_lists_of_several_labels(read, text, expected):
    assert read(text, *MULTI) == expected


# What these lists mean has not changed: fields are counted from the end, and nothing in a path matters.
@pytest.mark.parametrize(
    "text, overrides, expected",
    [
        ("0 intro.mp4 1\n1 run.mp4 2\n2 end.mp4 0\n", (), [("0 intro.mp4", 1), ("1 run.mp4", 2), ("2 end.mp4", 0)]),
        ("#a.mp4 1\na.mp4 0\n", (), [("#a.mp4", 1), ("a.mp4", 0)]),
        ('say "hi".mp4 1\n"q".mp4 2\n', (), [('say "hi".mp4', 1), ('"q".mp4', 2)]),
        ("label 1\nvideo 2\n", (), [("label", 1), ("video", 2)]),
        ("a.mp4;1 2\nb\tc.mp4 3\n", (), [("a.mp4;1", 2), ("b\tc.mp4", 3)]),
        ("a, b.mp4,1\nc.mp4, 2\n", (), [("a, b.mp4", 1), ("c.mp4", 2)]),
        ("3,4 1\n1,2 0\n", (), [("3,4", 1), ("1,2", 0)]),
        ("f 1 30 2\ng 7 1\n", STH, [("f 1", 2), ("g", 1)]),
        ("f,30,2\ng h,7,1\n", STH, [("f", 2), ("g h", 1)]),
        ("a b.mp4 30.0 1.5 4 2\n", ANT, [("a b.mp4", 2)]),
        ("a b.mp4 -\nc,d.mp4 1,3\n", MULTI, [("a b.mp4", ()), ("c,d.mp4", (1, 3))]),
        ("s.tar/g h.mp4@512+20 3\n", (), [("s.tar/g h.mp4@512+20", 3)]),
    ],
)
def test_plain_lists_mean_what_they_meant(read, text, overrides, expected):
    assert read(text, *overrides) == expected


@pytest.mark.parametrize(
    "text, path",
    [('"q" 1\na.mp4 0\n', '"q"'), ("0,a.mp4,1\n1,b.mp4,0\n", "0,a.mp4"), ("# a.mp4 1\na.mp4 0\n", "# a.mp4")],
)
def test_a_name_that_is_there_is_taken_as_it_is(read, tmp_path, text, path):
    (tmp_path / path).touch()
    assert read(text)[0] == (path, 1)


@pytest.mark.parametrize(
    "text, overrides, parts",
    [
        ("a.mp4 0\nb.mp4 1\nc.mp4,2\n", (), ["train.csv, line 3", "a space", "'c.mp4,2'"]),
        ("video,label\na.mp4,0\nb.mp4 1\n", (), ["train.csv, line 3", "a comma", "'b.mp4 1'"]),
        ("video\na.mp4\n", (), ["train.csv, line 1", "header", "without the column label"]),
        ("path,label\nframes,2\n", STH, ["train.csv, line 1", "without the column frames", "path frames label"]),
        ("a.mp4,left,0\nmy video.mp4,right,1\n", (), ["train.csv, line 1", "'a.mp4,left,0'", "first line"]),
        ("wave,a.mp4\nwave,b.mp4\n", (), ["train.csv, line 1", "'a.mp4'", "label,path", "1 more line"]),
        ("a.mp4,weave\n", (), ["train.csv, line 1", "'weave'", "'wave'", "classes.txt"]),
        ("a.mp4 1.5\n", (), ["train.csv, line 1", "'1.5' is not a whole number"]),
        ("a.mp4 wave -1\n", (), ["train.csv, line 1", "label -1", "test lists"]),
        (",1\n", (), ["train.csv, line 1"]),
        ("a.mp4 1, 3\n", MULTI, ["train.csv, line 1", "without spaces"]),
        ("a.mp4,1,3\nb.mp4,2\n", MULTI, ["train.csv, line 1", "double quotes"]),
        ("a.mp4\t1\n", ("DATA.PATH_LABEL_SEPARATOR", ","), ["train.csv, line 1", "a comma", "SEPARATOR auto"]),
        ("a.mp4 1\n", ("DATA.PATH_LABEL_SEPARATOR", ""), ["DATA.PATH_LABEL_SEPARATOR", "empty"]),
    ],
)
def test_what_is_not_clear_is_refused_by_line(read, text, overrides, parts):
    with pytest.raises(UserError) as error:
        read(text, *overrides)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_class_names_need_a_file_of_them(read, tmp_path):
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"line 1: label 'wave' is not a whole number.*classes.txt.*DATA.CLASS_NAMES"):
        read("a.mp4,wave\nb.mp4,jump\n")
    (tmp_path / "classes.txt").write_text("wave\njump\nx\ny\n")
    assert read("a.mp4,wave\nb.mp4,jump\n") == [("a.mp4", 0), ("b.mp4", 1)]


def test_the_lists_of_a_data_set_s_own_name_the_command(read):
    for tail in ("", ",is_cc"):
        with pytest.raises(UserError, match=r"train.csv, line 1: .*youtube_id.*datasets/prepare.py k400 --annotations"):
            read(f"label,youtube_id,time_start,time_end,split{tail}\nabseiling,abc,1,11,train,0\n")
    with pytest.raises(UserError, match="datasets/prepare.py charades"):
        read("id,subject,scene,quality,actions,length\nX,1,Kitchen,6,c092 1 2,3\n")
