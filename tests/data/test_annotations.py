"""Annotation lists and class names: what is read, and the error messages."""

import subprocess
import sys

import pytest
from iopath.common.file_io import PathHandler, g_pathmgr

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.sample_list import Sample
from slowfast_uniformer.errors import UserError


def cfg_for(folder, *overrides):
    base = ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(folder), "MODEL.NUM_CLASSES", 3]
    return load_config(None, [*base, *overrides])


def test_kinetics_list_with_prefix_and_separator_in_paths(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text("a b/c.mp4 2\n\nd.mp4 0\n")
    monkeypatch.setenv("VIDEOS", "/videos")
    samples = annotations.load(cfg_for(tmp_path, "DATA.PATH_PREFIX", "$VIDEOS"), "train")
    assert [(s.path, s.label, s.frames) for s in samples] == [
        ("/videos/a b/c.mp4", 2, None),
        ("/videos/d.mp4", 0, None),
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a, b.mp4,1\nc.mp4,2\n", [("a, b.mp4", 1), ("c.mp4", 2)]),
        ("a,b.mp4 1\nc,2.mp4 2\n", [("a,b.mp4", 1), ("c,2.mp4", 2)]),
        ("\na b.mp4, 1\n", [("a b.mp4", 1)]),
    ],
)
def test_commas_are_told_from_spaces(tmp_path, text, expected):
    (tmp_path / "train.csv").write_text(text)
    assert [(s.path, s.label) for s in annotations.load(cfg_for(tmp_path), "train")] == expected


def test_a_variable_that_is_not_set_has_a_stand_in(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text("d.mp4 0\n")
    keys = ("DATA.PATH_PREFIX", "${MY_VIDEOS:-data/mine}")
    monkeypatch.delenv("MY_VIDEOS", raising=False)
    assert annotations.load(cfg_for(tmp_path, *keys), "train")[0].path == "data/mine/d.mp4"
    monkeypatch.setenv("MY_VIDEOS", "/videos")
    assert annotations.load(cfg_for(tmp_path, *keys), "train")[0].path == "/videos/d.mp4"


def test_something_something_list(tmp_path):
    (tmp_path / "rgb_train.txt").write_text("1001,57,2\n")
    (tmp_path / "rgb_val.txt").write_text("7,30,0\n")
    cfg = cfg_for(
        tmp_path,
        "TRAIN.DATASET",
        "sth",
        "TEST.DATASET",
        "sth",
        "DATA.LABEL_PATH_TEMPLATE",
        "rgb_{}.txt",
        "DATA.PATH_LABEL_SEPARATOR",
        ",",
    )
    assert annotations.load(cfg, "train") == [annotations.Sample("1001", 2, 57)]
    assert annotations.load(cfg, "test") == annotations.load(cfg, "val") == [annotations.Sample("7", 0, 30)]


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a.mp4 0\nb.mp4\n", ["train.csv, line 2", "2 fields", "path label", "b.mp4"]),
        ("a.mp4\n", ["train.csv, line 1", "separated by a space", "Write the label", "DATA.PATH_LABEL_SEPARATOR"]),
        ("id,label\na,0\n", ["train.csv, line 1", "names the columns", "path and label"]),
        ("a.mp4 3\n", ["train.csv, line 1", "label 3", "0 to 2", "MODEL.NUM_CLASSES"]),
        ("a.mp4 -1\n", ["label -1"]),
        ("a.mp4 cat\n", ["train.csv, line 1", "'cat'", "whole number"]),
        ("\n \n", ["train.csv", "empty"]),
    ],
)
def test_bad_lists_name_file_line_and_remedy(tmp_path, text, parts):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError) as error:
        annotations.load(cfg_for(tmp_path), "train")
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_missing_list_and_unknown_data_set(tmp_path):
    with pytest.raises(UserError, match=r"train\.csv.*DATA\.PATH_TO_DATA_DIR"):
        annotations.load(cfg_for(tmp_path), "train")
    with pytest.raises(UserError, match=r"TRAIN\.DATASET.*kinetics_sparse"):
        annotations.load(cfg_for(tmp_path, "TRAIN.DATASET", "imagenet"), "train")


def test_class_names(tmp_path):
    assert annotations.class_names(cfg_for(tmp_path)) is None
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert annotations.class_names(cfg_for(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "names.json").write_text('{"x": "2", "y": "0", "z": "1"}')
    assert annotations.class_names(cfg_for(tmp_path, "DATA.CLASS_NAMES", str(tmp_path / "names.json"))) == list("yzx")
    with pytest.raises(UserError, match="3 class names, but MODEL.NUM_CLASSES is 4"):
        annotations.class_names(cfg_for(tmp_path, "MODEL.NUM_CLASSES", 4))
    with pytest.raises(UserError, match="absent.txt.*DATA.CLASS_NAMES"):
        annotations.class_names(cfg_for(tmp_path, "DATA.CLASS_NAMES", str(tmp_path / "absent.txt")))


@pytest.mark.parametrize(
    "line, part",
    [
        ("v.mp4 30 9 4 0", "from 9 to 4 does not fit a video from 0 to 30"),
        ("v.mp4 30 x 4 0", "start 'x' is not a number"),
        ("v.mp4 30 4 0", "5 fields"),
        ("v.mp4 30 40 50 0", "from 40 to 50 does not fit a video from 0 to 30"),
    ],
)
def test_bad_parts_name_file_and_line(line, part, tiny, tmp_path):
    (tmp_path / "train.csv").write_text(f"v.mp4 30 1 2 0\n{line}\n")
    with pytest.raises(UserError, match="train.csv, line 2") as error:
        annotations.load(
            load_config(None, [*tiny, "DATA.PATH_TO_DATA_DIR", str(tmp_path), "TRAIN.DATASET", "ant"]), "train"
        )
    assert part in str(error.value)


def test_labels_of_a_list_are_all_checked(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0,7\nb.mp4 3,8\n")
    with pytest.raises(UserError, match="train.csv, line 2: label 8 is outside 0 to 7"):
        annotations.load(cfg_for(tmp_path, "DATA.MULTI_LABEL", True, "MODEL.NUM_CLASSES", 8), "train")


def test_lists_and_names_from_any_storage(tiny, demo):
    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["demo-lists://"]

        def _get_local_path(self, path, force=False, **_):
            return str(demo / path.removeprefix("demo-lists://x/"))

    g_pathmgr.register_handler(Handler(), allow_override=True)
    cfg = load_config(None, [*tiny, "DATA.PATH_TO_DATA_DIR", "demo-lists://x"])
    assert annotations.load(cfg, "val") == annotations.load(load_config(None, tiny), "val")
    assert annotations.class_names(cfg) == (demo / "classes.txt").read_text().splitlines()
    for address, part in (
        ("demo-lists://x/none", "train.csv: cannot read"),
        ("nowhere://x", "cannot download nowhere"),
    ):
        with pytest.raises(UserError, match=part):
            annotations.load(load_config(None, [*tiny, "DATA.PATH_TO_DATA_DIR", address]), "train")


def test_byte_order_marks_are_no_text(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 1\n", encoding="utf-8-sig")
    (tmp_path / "classes.txt").write_text("x\ny\nz\n", encoding="utf-8-sig")
    assert annotations.load(cfg_for(tmp_path), "train")[0].path == "a.mp4"
    assert annotations.class_names(cfg_for(tmp_path)) == ["x", "y", "z"]


def test_rows_come_with_samples_or_errors(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 1\n\nb.mp4\nc.mp4 3\n d.mp4 2 \n")
    rows = list(annotations.read_rows(cfg_for(tmp_path), "train"))
    assert [(row.number, row.text) for row, _ in rows] == [(1, "a.mp4 1"), (3, "b.mp4"), (4, "c.mp4 3"), (5, "d.mp4 2")]
    assert [isinstance(result, UserError) for _, result in rows] == [False, True, True, False]
    assert str(rows[1][1]).startswith(f"{rows[1][0].where}: expected 2 fields")


def test_lists_are_read_without_heavy_imports():
    names = ("annotations", "input_lists", "flip_labels", "list_notes", "shards")
    modules = ", ".join([*(f"slowfast_uniformer.data.{name}" for name in names), "slowfast_uniformer.engine.preflight"])
    heavy = "[name for name in ('torch', 'numpy', 'av', 'PIL') if name in sys.modules]"
    code = f"import sys, {modules}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_errors_count_the_lines_like_the_first(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 5\nc.mp4 7\nd.mp4\ne.mp4 9\n")
    with pytest.raises(UserError, match=r"line 2: label 5 .*\(2 more lines like it, 1 more with other faults\)$"):
        annotations.load(cfg_for(tmp_path), "train")


@pytest.mark.parametrize("split, hint", [("test", True), ("train", False)])
def test_a_list_without_labels_is_told_of_the_label_for_them(tmp_path, split, hint):
    for text in ("a.mp4\nb.mp4\n", "my video.mp4\nb.mp4\n", "path,label\na.mp4,\n", "a.mp4,nan\n"):
        (tmp_path / f"{split}.csv").write_text(text)
        with pytest.raises(UserError, match=f"{split}.csv, line ") as error:
            annotations.load(cfg_for(tmp_path), split)
        assert ("the label -1" in str(error.value)) == hint


def test_labels_that_start_at_one(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 1\nb.mp4 2\nc.mp4 3\n")
    with pytest.raises(UserError, match=r"line 3: label 3 is outside 0 to 2 .*start at 1 instead of 0: subtract 1"):
        annotations.load(cfg_for(tmp_path), "train")


def test_class_names_that_are_numbers(tmp_path):
    """They are labels where all can be labels, and names where all are names."""
    (tmp_path / "classes.txt").write_text("001\n002\n007\n")
    for text, labels in (("a.mp4 007\nb.mp4 001\n", [2, 0]), ("a.mp4 001\nb.mp4 002\n", [1, 2])):
        (tmp_path / "train.csv").write_text(text)
        assert [sample.label for sample in annotations.load(cfg_for(tmp_path), "train")] == labels


def test_a_list_is_parsed_once_while_it_is_the_same(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text("a.mp4 1\n")
    annotations.load(cfg_for(tmp_path), "train")
    with monkeypatch.context() as patch:
        patch.setattr(annotations, "_read", None)
        assert [s.path for s in annotations.load(cfg_for(tmp_path), "train")] == ["a.mp4"]
    assert annotations.load(cfg_for(tmp_path, "DATA.PATH_PREFIX", "x"), "train")[0].path == "x/a.mp4"
    (tmp_path / "train.csv").write_text("b.mp4 1\nc.mp4 2\n")
    assert [s.path for s in annotations.load(cfg_for(tmp_path), "train")] == ["b.mp4", "c.mp4"]


def test_a_template_that_is_no_file_name(tmp_path):
    cfg = cfg_for(tmp_path, "TRAIN.DATASET", "sth", "DATA.LABEL_PATH_TEMPLATE", "x_{split}.txt")
    with pytest.raises(UserError, match="DATA.LABEL_PATH_TEMPLATE"):
        annotations.load(cfg, "train")


def test_many_labels_that_are_no_class_names_are_refused_at_once(tmp_path, monkeypatch):
    """The nearest name of each would take a list of a million lines an hour; it makes no fault another one."""
    compared = []
    monkeypatch.setattr(
        annotations.difflib, "get_close_matches", lambda text, names, n: compared.append(text) or ["run"]
    )
    (tmp_path / "classes.txt").write_text("jump\nrun\nwalk\n")
    (tmp_path / "train.csv").write_text("".join(f"a.mp4,zz{k}\n" for k in range(1000)))
    with pytest.raises(
        UserError, match=r"line 1: label 'zz0' is not .* Correct the label or that file \(999 more lines like it\)"
    ):
        annotations.load(cfg_for(tmp_path), "train")
    assert len(compared) == 100


SEGMENTS = [Sample("a b.mp4", 1, None, (0.5, 2.25, -1.0)), Sample("c.mp4", 0, None, (3.0, 62.5, -1.0))]


@pytest.mark.parametrize(
    "text",
    [
        "path,start,end,label\na b.mp4,0.5,2.25,1\nc.mp4,3,62.5,0\n",
        "label\tend\tstart\tvideo\n1\t2.25\t.5\ta b.mp4\n0\t1:02.5\t3\tc.mp4\n",
        "# events\npath;start;end;label\n\na b.mp4;0,5;2,25;run\nc.mp4;0:03;0:01:02.50;Jump\n",
        "x,path,start_time,end_time,class\n9,a b.mp4,0.5,2.25,run\n9,c.mp4,3.0,62.5,jump\n",
    ],
)
def test_segments_in_seconds(tmp_path, text):
    (tmp_path / "classes.txt").write_text("jump\nrun\nwalk\n")
    (tmp_path / "train.csv").write_text(text)
    samples = annotations.load(cfg_for(tmp_path), "train")
    assert list(samples) == SEGMENTS and samples.has_segments and not samples.has_groups
    assert [sample.segment for sample in samples] == [(0.5, 2.25), (3.0, 62.5)]
    assert [sample.line for sample in samples] == ([2, 3] if "#" not in text else [4, 5])


def test_segments_with_several_labels_groups_and_whole_videos(tmp_path):
    text = 'path,start,end,group,label\na.mp4,1,2,ann,"0,2"\nb.mp4,,,ben,1\n'
    (tmp_path / "train.csv").write_text(text)
    first, second = annotations.load(cfg_for(tmp_path, "DATA.MULTI_LABEL", True), "train")
    assert first == Sample("a.mp4", (0, 2), None, (1.0, 2.0, -1.0), group="ann")
    assert second == Sample("b.mp4", (1,), group="ben") and second.segment is None


@pytest.mark.parametrize(
    "start, end, message",
    [
        ("5", "3", "the segment from 5 to 3 s ends before it begins"),
        ("3", "3.0", "the segment from 3 to 3.0 s ends where it begins"),
        ("-1", "3", "the segment from -1 to 3 s begins before the video"),
        ("1", "inf", "the segment from 1 to inf s has no end"),
        ("1", "nan", "end 'nan' is not a time"),
        ("1", "", "end '' is not a number"),
        ("soon", "3", "start 'soon' is not a number"),
    ],
)
def test_odd_segments_are_one_message_with_file_and_line(tmp_path, start, end, message):
    (tmp_path / "train.csv").write_text(f"path,start,end,label\na.mp4,0,1,2\nb.mp4,{start},{end},0\n")
    with pytest.raises(UserError) as caught:
        annotations.load(cfg_for(tmp_path), "train")
    assert str(caught.value).startswith(f"{tmp_path}/train.csv, line 3: {message}")


def test_start_and_end_of_other_lists_are_what_they_were(tmp_path):
    """Of formats that have a total the unit is the list's own; and one of two columns makes no segment."""
    (tmp_path / "train.csv").write_text("path,total,start,end,label\na.mp4,30,1,2.5,0\n")
    assert annotations.load(cfg_for(tmp_path, "TRAIN.DATASET", "ant"), "train")[0].part == (1.0, 2.5, 30.0)
    (tmp_path / "train.csv").write_text("path,start,label\na.mp4,7,0\n")
    assert annotations.load(cfg_for(tmp_path), "train")[0] == Sample("a.mp4", 0)
