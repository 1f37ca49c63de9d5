"""Notes on numbers of lists that can hardly be right."""

import re

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.list_notes import half_labelled, list_notes
from slowfast_uniformer.data.sample_list import Sample, SampleList

NAMES = [f"class {k}" for k in range(8)]


def notes(lists, classes=3, names=None, *overrides):
    """Of lists of (path, label), or of labels alone whose videos differ."""
    cfg = load_config(None, ["NUM_GPUS", 0, "MODEL.NUM_CLASSES", classes, *overrides])
    samples = {
        split: SampleList.of(
            Sample(*row) if isinstance(row, tuple) and row else Sample(f"{split}{k}.mp4", row)
            for k, row in enumerate(rows)
        )
        for split, rows in lists.items()
    }
    return list(list_notes(cfg, samples, names))


def test_good_lists_need_no_note():
    assert notes({"train": [0, 1, 2], "val": [0, 1, 2], "test": [0, -1]}) == []
    assert notes({"test": [0]}) == []


@pytest.mark.parametrize(
    "lists, classes, names, expected",
    [
        (
            {"train": [0, 1, 2], "val": [0, 1]},
            400,
            None,
            "NUM_CLASSES is 400, but the lists use 3 labels, 0 to 2; .*MODEL.NUM_CLASSES 3$",
        ),
        (
            {"train": [0, 2]},
            8,
            NAMES,
            r"6 of 8 classes have no training video: 1 \(class 1\), .*5 \(class 5\), 6 \(class 6\) and 1 more$",
        ),
        ({"train": [0, 2]}, 3, None, "1 of 3 classes have no training video: 1$"),
        ({"train": [1, 2]}, 3, None, "no training video is of label 0: do the labels of the list start at 1"),
        ({"train": [1, 1]}, 8, NAMES, r"all training videos are of one class, 1 \(class 1\)"),
        ({"train": [0, 1], "val": [0, 2]}, 3, None, "the val list has a label that no training video has, .*: 2$"),
        ({"train": [("a", 0), ("a", 1)]}, 2, None, "all 2 lines of the train list name the same video, a$"),
        (
            {"train": [("a", 0), ("b", 1), ("a", 1), ("a", 1)]},
            2,
            None,
            r"^the train list has 1 video with more than one label, such as a \(0 and 1\)$",
        ),
        (
            {"train": [("a", 0), ("b", 1)], "test": [("b", 1), ("a", 0)]},
            2,
            None,
            "all 2 videos of the test list are in",
        ),
        (
            {"train": [("a", 0), ("b", 1)], "val": [("b", 1), ("c", 0)]},
            2,
            None,
            "1 of the 2 videos of the val list is in",
        ),
    ],
)
def test_notes(lists, classes, names, expected):
    found = notes(lists, classes, names)
    assert any(re.search(expected, note) for note in found), found


def test_several_labels_without_any():
    found = notes({"train": [(), ()], "val": [()], "test": [()]}, 3, None, "DATA.MULTI_LABEL", True)
    assert len(found) == 3 and "no video of the train list has a label" in found[0]
    assert "nan" in found[1] and "no checkpoint becomes the best" in found[1] and "test list" in found[2]


def test_a_list_where_some_have_labels():
    labels = [0, -1, -1, 1, 2]
    assert "of the 3 labelled of 5 test videos" in half_labelled(SampleList.of(Sample("a", label) for label in labels))
    for alike in ([Sample("a", -1)], [Sample("a", 1)], []):
        assert half_labelled(SampleList.of(alike)) == ""


def test_groups_on_both_sides():
    rows = {
        split: [(f"{split}{k}.mp4", k, None, None, None, group) for k in range(3)]
        for split, group in (("train", "ann"), ("val", "ben"), ("test", "ann"))
    }
    (note,) = notes(rows)
    assert note == (
        "1 of 1 group of the test list is in the train list, too, such as ann: `uniformer lists --group-by` keeps "
        "groups on one side"
    )


def in_folders(labels, split="train", videos=3):
    """Videos in a folder for each class, such as "root/train/left/train0.mp4", with these labels."""
    folders = ("left", "right", "up")
    rows = zip(folders, labels, strict=True)
    return [(f"root/{split}/{folder}/{split}{k}.mp4", label) for folder, label in rows for k in range(videos)]


def test_labels_that_are_shifted_between_lists():
    lists = {"train": in_folders([0, 1, 2]), "val": in_folders([1, 2, 0], "val")}
    assert notes(lists) == [
        "val list: videos of the folder up have label 0, but 2 in the train list; 3 folders in all. Accuracy will be "
        "at chance; correct the labels or the class names"
    ]
    wrong_lines = [(f"root/val/left/odd{k}.mp4", k) for k in range(3)]
    val = [*in_folders([1, 2, 0], "val", videos=9), *wrong_lines]
    assert len(notes({"train": lists["train"], "val": val})) == 1, "a wrong line hides nothing"
    assert notes({"train": lists["train"], "val": in_folders([0, 1, 2], "val")}) == []


def test_labels_that_the_class_names_contradict():
    (note,) = notes({"train": in_folders([0, 1, 2])}, 3, ["left", "Up", "Right"])
    assert "train list: videos of the folder right have label 1, but 2 by the class names; 2 folders in all" in note
    assert notes({"train": in_folders([0, 1, 2])}, 3, ["left", "Right", "up"]) == []
    assert notes({"train": in_folders([0, 1, 2])}, 3, ["a", "b", "c"]) == []


@pytest.mark.parametrize(
    "train, val",
    [
        ([("ann/1.mp4", 0), ("ann/2.mp4", 1), ("ben/3.mp4", 1)], [("ann/4.mp4", 1), ("ben/5.mp4", 0)]),
        ([("ann/1.mp4", 0), ("ben/2.mp4", 0), ("cid/3.mp4", 1)], [("ann/4.mp4", 1), ("cid/5.mp4", 0)]),
        ([("1.mp4", 0), ("2.mp4", 1)], [("3.mp4", 1), ("4.mp4", 0)]),
    ],
    ids=["several labels in a folder", "several folders of a label", "no folders"],
)
def test_folders_that_are_not_classes_need_no_note(train, val):
    assert notes({"train": train, "val": val}, 2) == []
