"""Splits and folds: no group on two sides, classes balanced, the same again with the same seed."""

import random
import shlex
from collections import Counter

import pytest

from slowfast_uniformer.data.splits import (
    Item,
    assign,
    few_of,
    is_excluded,
    list_text,
    make_folds,
    split_items,
    split_notes,
    with_groups,
)
from slowfast_uniformer.errors import UserError


def random_items(draw):
    groups = [f"g{k}" for k in range(draw.randint(6, 30))]
    classes = [f"c{k}" for k in range(draw.randint(1, 6))]
    sizes = [draw.choice([1, 1, 2, 5, 20]) for _ in groups]
    return [
        Item(f"{group}_{k}.mp4", draw.choice(classes), group=group)
        for group, size in zip(groups, sizes, strict=True)
        for k in range(size)
    ]


def groups_of(items):
    return {item.group for item in items}


@pytest.mark.parametrize("seed", range(40))
def test_no_group_is_split(seed):
    """Random lists: every video once, every side filled, no group on two sides."""
    draw = random.Random(seed)
    items = random_items(draw)
    count = draw.randint(2, 6)
    folds = (
        make_folds(items, count, draw.choice([0, 0.1, 0.3]) if count > 2 else 0, seed)
        if len(groups_of(items)) > count + 1
        else []
    )
    tested = [item for fold in folds for item in fold["test"]]
    assert not folds or sorted(tested) == sorted(items)
    for split in [*folds, split_items(items, 0.2, draw.choice([0, 0.2]), seed)]:
        parts = {name: part for name, part in split.items() if name == "test" or part is not split["test"]}
        assert all(parts.values()) and sum(map(len, parts.values())) == len(items)
        for name, part in parts.items():
            others = [item for other, found in parts.items() if other != name for item in found]
            assert not groups_of(part) & groups_of(others)
    assert folds == (make_folds(items, count, 0, seed) if folds and "val" not in folds[0] else folds)


@pytest.mark.parametrize("seed", range(10))
def test_without_groups_each_class_is_shared_out_evenly(seed):
    draw = random.Random(seed)
    items = [Item(f"{name}{k}.mp4", name) for name in "abcd" for k in range(draw.choice([5, 6, 17, 60]))]
    for name in "abcd":
        counts = [Counter(item.label for item in fold["test"])[name] for fold in make_folds(items, 5, 0, seed)]
        assert max(counts) - min(counts) <= 1 and min(counts) >= 1
    split, sizes = split_items(items, 0.2, 0.1, seed), Counter(item.label for item in items)
    for name in "abcd":
        for part, share in (("val", 0.2), ("test", 0.1)):
            found = sum(item.label == name for item in split[part])
            assert abs(found - max(1, share * sizes[name])) <= 1


def test_groups_of_classes_are_balanced_as_far_as_they_can_be():
    """30 people of 8 to 12 videos in 5 classes: each fold has a fifth of each class, give or take a few videos."""
    draw = random.Random(0)
    items = [Item(f"p{p}_{k}.mp4", f"c{draw.randrange(5)}", group=f"p{p}") for p in range(30) for k in range(10)]
    sizes = Counter(item.label for item in items)
    for fold in make_folds(items, 5, 0, 0):
        for label, count in Counter(item.label for item in fold["test"]).items():
            assert abs(count - sizes[label] / 5) <= 4


def test_seeds_give_other_splits():
    items = [Item(f"{k}.mp4", "ab"[k % 2]) for k in range(40)]
    assert split_items(items, 0.25, 0, 1) == split_items(items, 0.25, 0, 1) != split_items(items, 0.25, 0, 2)


def test_segments_of_a_video_stay_together_unless_there_is_only_one_video():
    items = [Item(f"{k // 5}.mp4", "ab"[k % 2], k, k + 1) for k in range(40)]
    split = split_items(items, 0.25, 0, 0)
    assert not {item.path for item in split["train"]} & {item.path for item in split["val"]}
    split = split_items(items[:5], 0.25, 0, 0)
    assert split["train"] and split["val"] and split["test"] is split["val"]


def test_too_few_groups_and_wrong_fractions():
    items = [Item(f"a{k}.mp4", "a", group="one") for k in range(4)]
    with pytest.raises(UserError, match="1 group of videos cannot fill 2 lists"):
        split_items(items, 0.2, 0, 0)
    with pytest.raises(UserError, match="--folds 1"):
        make_folds(items, 1, 0, 0)
    with pytest.raises(UserError, match="their sum below 1"):
        split_items(items, 0.6, 0.4, 0)
    few = ["a: only 4 videos of 1 group, fewer than 2 folds", "b: only 1 video, fewer than 2 folds"]
    assert few_of([*items, Item("b.mp4", "b", group="two")], 2) == few
    many = few_of([Item(f"{k}.mp4", f"class {k}") for k in range(400)], 2)
    assert len(many) == 6 and many[-1] == "395 more classes with fewer videos than folds"
    assert split_items(items, 0, 0, 0) == {"train": items}


def test_groups_by_an_expression():
    items = [Item("s1/p02_a.mp4", "a"), Item("s2/p13_b.mp4", "b")]
    assert [item.group for item in with_groups(items, r"p\d+")] == ["p02", "p13"]
    assert [item.group for item in with_groups(items, r"s(\d).*p(\d+)")] == ["1 02", "2 13"]
    with pytest.raises(UserError, match=r"does not match any of 2 videos, such as s1/p02_a.mp4, s2.*Correct the expr"):
        with_groups(items, "q")
    odd = [Item(f"s1/[{k}] odd.mp4", "a") for k in range(7)]
    with pytest.raises(
        UserError, match=r"does not match s1/\[0\] odd.mp4 \(in .*\)\. .*leave these videos out: --exclude"
    ) as error:
        with_groups([*items, odd[0]], "p")
    *_, option = shlex.split(str(error.value).rpartition("out: ")[2])
    assert [item for item in [*items, *odd] if is_excluded(item.path, [option])] == odd[:1]
    with pytest.raises(UserError, match=r"\[4\] odd.mp4 and 2 more \(in .*\)\. .*: --exclude PATTERN$"):
        with_groups([*items, *odd], "p")
    with pytest.raises(UserError, match=r"neither a column .* nor a regular expression"):
        with_groups(items, "(")


def test_a_group_may_be_found_with_the_ending_but_not_in_it():
    items = [Item("a/b_slice1.mp4", "a"), Item("a/b_slice12.avi", "a")]
    for pattern in ("([0-9]+)$", r"([0-9]+)\.(?:mp4|avi)", r"([0-9]+)\.", "[0-9]+"):
        assert [item.group for item in with_groups(items, pattern)] == ["1", "12"]
    with pytest.raises(UserError, match=r"does not match a/b_slice12.avi \(in a/b_slice1.mp4 it found '1'\)"):
        with_groups(items, r"([0-9]+)\.mp4")
    with pytest.raises(UserError, match="does not match any of 1 video, such as a/none.mp4"):
        with_groups([Item("a/none.mp4", "a")], "[0-9]+$")


@pytest.mark.parametrize("pattern", ["*/broken_*", "broken_?.mp4", "a/b/broken_1.mp4", "a/*1.mp4"])
def test_what_is_excluded(pattern):
    assert is_excluded("a/b/broken_1.mp4", ["none", pattern]) and not is_excluded("a/b/clip_2.mp4", [pattern])


def test_notes_on_a_split():
    items = [Item(f"{k}.mp4", "a", group=f"g{k % 8}") for k in range(40)]
    split = split_items(items, 0.25, 0.0, 0)
    notes, warnings = split_notes(split, given=False)
    assert notes[0].startswith("8 groups (train 6, val 2, test 2); the largest: g") and "(5 videos), " in notes[0]
    assert notes[1].endswith("on the same videos; --test 0.2 keeps others for the test") and len(notes) == 2
    assert warnings == [
        "val has only 2 groups: with other groups its scores may be quite different; --folds 5 tests each video once"
    ]
    assert len(make_folds(items, 5, 0.2, 0)) == 5, "the remedy works"

    notes, warnings = split_notes(split_items(items, 0.2, 0.2, 0), given=True)
    assert len(notes) == 1 and all("--" not in line for line in [*notes, *warnings]), "one's own split"
    notes, warnings = split_notes(split_items([item._replace(group="") for item in items[:4]], 0.25, 0.25, 0), False)
    assert warnings == []
    assert notes == [
        "videos of one person or recording may be on both sides; --group-by keeps them together",
        "4 videos are few for a single split, whose scores vary by chance; --folds 4 tests each video once",
    ]
    many = [Item(f"{k}.mp4", "a") for k in range(200)]
    assert split_notes(split_items(many, 0.2, 0.2, 0), True) == ([], [])
    assert split_notes(split_items(many, 0, 0, 0), False) == ([], []), "nothing is held out"


def test_texts_of_lists():
    labels = {"a": 0, "b": 1}
    assert list_text([Item("x y.mp4", "b")], labels) == "x y.mp4 1\n"
    items = [Item("x,y.mp4", "b", 0.1, 12.0), Item("z.mp4", "a", 3661.123456, 4000.5)]
    assert list_text(items, labels) == 'path,start,end,label\n"x,y.mp4",0.1,12,1\nz.mp4,3661.123456,4000.5,0\n'
    assert list_text([Item("x.mp4", "b", group="p 1")], labels, "\t") == "path\tlabel\tgroup\nx.mp4\t1\tp 1\n"


def test_sides_of_equal_shares_have_equal_sizes():
    sides = assign(["a"] * 7 + ["b"], list(range(8)), [0.25] * 4)
    assert Counter(sides).most_common() == [(side, 2) for side in Counter(sides)]
