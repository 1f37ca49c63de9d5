"""Class names: the files people have, and their comparison."""

import json

import pytest

from slowfast_uniformer.data.classes import ClassLookup, check_same_classes, read_class_names, visible
from slowfast_uniformer.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "a\nb, c\nd\n",
        "\ufeff a \r\n\tb, c\r\nd\u3000\r\n\r\n",
        "a\rb, c\rd\r",
        "a\n\nb, c\nd\n",
        '"a"\n"b, c"\nd\n',
        "0 a\n1 b, c\n2 d\n",
        "1 a\n2 b, c\n3 d\n",
        "2 d\n0 a\n1 b, c\n",
        "a 0\nb, c 1\nd 2\n",
        '0,a\n1,"b, c"\n2,d\n',
        'id,name\n0,a\n1,"b, c"\n2,d\n',
        'name,id\na,0\n"b, c",1\nd,2\n',
        "name\na\nb, c\nd\n",
        "0\ta\n1\tb, c\n2\td\n",
        '["a", "b, c", "d"]',
        '{"0": "a", "1": "b, c", "2": "d"}',
        '{"1": "a", "2": "b, c", "3": "d"}',
        '{"d": 2, "a": 0, "b, c": 1}',
        '{"d": "2", "a": "0", "b, c": "1"}',
        '{"a": 0, "\\"b, c\\"": 1, "d": 2}',
        '{"model": 1, "id2label": {"0": "a", "1": "b, c", "2": "d"}}',
        '[{"id": 1, "name": "a"}, {"id": 2, "name": "b, c"}, {"id": 3, "name": "d"}]',
    ],
)
def test_files_of_names(tmp_path, text):
    for name in ("classes.txt", "names.json") if text[0] in "[{" else ("classes.txt",):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / name).write_bytes(text.encode(encoding))
            assert read_class_names(str(tmp_path / name), 3) == ["a", "b, c", "d"]


@pytest.mark.parametrize(
    "names", [["100 m", "200 m", "400 m"], ["1 player", "2 players", "3 players"], ["0", "1", "2"]]
)
def test_numbers_in_names(tmp_path, names):
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert read_class_names(str(tmp_path / "classes.txt"), 3) == names


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\nb\na \n", "'a' is the name of two classes: line 1 and line 3"),
        ("a\n\nb\n", "classes.txt, line 2: an empty line .* 2 where MODEL.NUM_CLASSES is 3"),
        ("a\nb\n", "2 class names, but MODEL.NUM_CLASSES is 3"),
        ("", "0 class names"),
        ("0,a\n1,b\n3,c\n", "classes.txt, line 3: the labels .* without a gap.*3 follows 1"),
        ("0,a\n1,b\n1,c\n", "classes.txt, line 3: .*1 follows 1"),
        ('{"a": 0, "b": 2, "c": 3}', r"classes.txt: the labels .* 2 \('b'\) comes after 0 \('a'\)"),
        ('{"a": 0, "b": 1, "c": 1}', r"1 \('c'\) comes after 1 \('b'\)"),
        ('{"a": 0, "b": 1, "a": 2}', "'a' is the name of two classes: label 0 and label 2"),
        ('["a", "", "c"]', "classes.txt, entry 2: .*empty"),
        ('{"a": "x"}', "expected a list of names, or an object.*DATA.CLASS_NAMES"),
        ("[1, 2, 3]", "expected a list of names"),
    ],
)
def test_faulty_files_of_names(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_names(str(tmp_path / "classes.txt"), 3)


@pytest.mark.parametrize(
    "theirs",
    [
        ["\ufeffleft turn", "café"],
        [" left turn", "café "],
        ["left\xa0turn", "cafe\u0301"],
        ["0 left turn", "1 café"],
        ["1,left turn", "2,café"],
        ['"left turn"', "caf\u200bé"],
    ],
)
def test_names_that_are_written_differently_are_the_same_classes(theirs):
    """As checkpoints hold them that were written when files were read as they are."""
    check_same_classes(theirs, ["left turn", "café"], "x.pyth")


@pytest.mark.parametrize(
    "ours, parts",
    [
        (["b", "a"], ["first at label 0", "label 0 is 'a' there and 'b' here", "same names in another order"]),
        (["a", "c"], ["first at label 1", "label 1 is 'b' there and 'c' here"]),
        (["a"], ["first at label 1", "2 classes there, 1 here"]),
        (["a", "b", "c"], ["first at label 2"]),
        (["a", "b\xa0\u200bx"], [r"'b\xa0\u200bx' here"]),
        (["a", "be\u0301"], [r"'be\u0301' here"]),
    ],
)
def test_names_that_differ_are_shown_side_by_side(ours, parts):
    with pytest.raises(UserError, match="x.pyth: its class names differ .*DATA.CLASS_NAMES") as error:
        check_same_classes(["a", "b"], ours, "x.pyth")
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_at_most_a_few_differences_are_shown():
    with pytest.raises(UserError, match="label 2 is '2' there and 'x2' here; 7 more differ"):
        check_same_classes([str(k) for k in range(10)], [f"x{k}" for k in range(10)], "x.pyth")
    check_same_classes(None, ["a"], "x.pyth")
    check_same_classes(["a"], None, "x.pyth")


def test_what_cannot_be_seen_is_shown():
    assert visible("a\r\t\ufeff") == r"'a\r\t\ufeff'"
    assert visible("क्षि") == "'क्षि'" and visible("é") == "'é'" and visible("e\u0301") == r"'e\u0301'"


def test_labels_of_names():
    lookup = ClassLookup(["Ice Skating", "run", "Run", "café"])
    found = [lookup.get(name) for name in ("Ice Skating", "ice_skating", "run", "Run", "RUN", "cafe\u0301", "x", "")]
    assert found == [0, 0, 1, 2, None, 3, None, None]


def test_json_of_numbers_as_names(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"007": 1, "001": 0}))
    assert read_class_names(str(tmp_path / "names.json"), 2) == ["001", "007"]
