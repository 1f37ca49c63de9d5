"""Lists of events and of the background between them, by the command `uniformer lists`."""

import csv
import json
import random
from fractions import Fraction

import pytest
import video_factory as factory

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.event_lists import background_segments


@pytest.fixture
def videos(tmp_path):
    """Four videos of eight seconds, at one frame a second."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in "abcd":
        factory.write_timed_video(folder / f"{name}.mp4", [Fraction(number) for number in range(8)])
    return folder


def write_events(path, videos="abcd", more=""):
    rows = [
        f"{v}.mp4,{at},{at + 1},{label},s{number % 2}"
        for number, v in enumerate(videos)
        for at, label in ((1, "run"), (4, "jump"))
    ]
    path.write_text("\n".join(["video,start,end,label,Subject", *rows, more]))
    return path


def samples(folder, videos, split):
    keys = ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(videos)]
    names = (folder / "classes.txt").read_text().split()
    found = annotations.load(load_config(None, [*keys, "MODEL.NUM_CLASSES", len(names)]), split)
    return [(s.path.removeprefix(f"{videos}/"), names[s.label], s.segment, s.group) for s in found]


def test_events_and_background(videos, tmp_path, command):
    events, out = write_events(tmp_path / "events.csv", more="gone.mp4,1,2,run,s9\n"), tmp_path / "lists"
    status, printed, errors = command(
        "lists", videos, "--annotations", events, "--out", out, "--background", 1, "--val", 0.25
    )
    assert status == 0, errors
    assert "left out, annotated videos that are not there: 1 (gone.mp4)" in errors and "MODEL.NUM_CLASSES 3" in printed
    assert (out / "classes.txt").read_text().split() == ["jump", "run", "background"]
    train, val = samples(out, videos, "train"), samples(out, videos, "val")
    assert samples(out, videos, "test") == val and len({path for path, *_ in val}) == 1
    assert not {path for path, *_ in val} & {path for path, *_ in train}
    for video in "abcd":
        own = sorted((segment, label) for path, label, segment, _ in train + val if path == f"{video}.mp4")
        assert [each for each in own if each[1] != "background"] == [((1.0, 2.0), "run"), ((4.0, 5.0), "jump")]
        assert sum(end - start for (start, end), label in own if label == "background") == pytest.approx(2, abs=0.01)
        assert all(one[0][1] <= other[0][0] for one, other in zip(own, own[1:], strict=False)), "no overlap"
    before = (out / "train.csv").read_text()
    again = ["lists", videos, "--annotations", events, "--out", out, "--background", 1, "--val", 0.25]
    assert command(*again)[0] == 2 and command(*again, "--force")[0] == 0
    assert (out / "train.csv").read_text() == before
    assert command(*again, "--force", "--seed", 1)[0] == 0 and (out / "train.csv").read_text() != before


@pytest.mark.parametrize("seed", range(60))
def test_background_never_overlaps(seed):
    draw = random.Random(seed)
    seconds = draw.uniform(1, 100)
    starts = [draw.uniform(0, seconds) for _ in range(draw.randint(1, 12))]
    events = sorted((start, start + draw.uniform(0.01, 9)) for start in starts)
    ratio = draw.choice([0.1, 1.0, 3.0])
    found = background_segments(events, seconds, ratio, draw.uniform)
    taken = sorted([*found, *((start, min(end, seconds)) for start, end in events)])
    for start, end in found:
        assert 0 <= start < end <= seconds
        assert sum(one < end and start < other for one, other in taken) == 1, "itself"
    inside = sum(any(a <= at * seconds / 20000 < b for a, b in events) for at in range(20000)) * seconds / 20000
    assert sum(end - start for start, end in found) <= ratio * inside + 0.02 * seconds


def test_background_is_as_long_as_the_events_where_there_is_room():
    uniform = random.Random(0).uniform
    for ratio in (0.5, 1.0, 2.0):
        found = background_segments([(10.0, 14.0), (12.0, 16.0), (40.0, 43.0)], 200.0, ratio, uniform)
        assert sum(end - start for start, end in found) == pytest.approx(9 * ratio, abs=0.6)
    assert background_segments([(0.2, 7.9)], 8.0, 1.0, uniform) == [], "no room"


def test_groups_by_a_column_and_by_the_path(videos, tmp_path, command):
    events, out = write_events(tmp_path / "events.csv"), tmp_path / "lists"
    base = ["lists", videos, "--annotations", events, "--force", "--val", 0.5]
    assert command(*base, "--out", out, "--group-by", "Subject")[0] == 0
    parts = samples(out, videos, "train"), samples(out, videos, "val")
    assert [{group for *_, group in part} for part in parts] in ([{"s0"}, {"s1"}], [{"s1"}, {"s0"}])
    assert [len(part) for part in parts] == [4, 4]
    assert command(*base, "--out", out, "--group-by", "[ab]|[cd]")[0] == 0
    assert {group for *_, group in samples(out, videos, "train")} <= {"a", "b", "c", "d"}
    status, printed, errors = command(*base, "--out", out, "--exclude", "a.*", "--folds", 2)
    assert status == 0 and "left out, --exclude: 2 of 8 lines" in errors
    assert "Videos of a fold: train 1 to 2, val 1 to 2, test 2 to 4" in printed
    assert "a.mp4" not in (out / "fold_1/train.csv").read_text() + (out / "fold_1/test.csv").read_text()
    status, _, errors = command(*base, "--group-by", "Subjekt")
    assert status == 2 and "--group-by Subjekt: does not match any of 4 videos" in errors and "a column" in errors


def test_a_table_without_times_has_labels_of_whole_videos(videos, tmp_path, command):
    table, out = tmp_path / "clips.csv", tmp_path / "lists"
    table.write_text("video,label,person\na.mp4,run,1\nb.mp4,jump,1\nc.mp4,run,2\nd.mp4,jump,2\n")
    command("lists", videos, "--annotations", table, "--out", out, "--group-by", "person", "--val", "0.5")
    found = {split: samples(out, videos, split) for split in ("train", "val")}
    assert all(segment is None for split in found.values() for _, _, segment, _ in split)
    sides = [{(path[0], name, group) for path, name, _, group in split} for split in found.values()]
    assert {frozenset(side) for side in sides} == {
        frozenset({("a", "run", "1"), ("b", "jump", "1")}),
        frozenset({("c", "run", "2"), ("d", "jump", "2")}),
    }
    status, _, errors = command("lists", videos, "--annotations", table, "--out", out, "--force", "--background", "1")
    assert status == 2 and "--background: a.mp4 has no start and end" in errors
    table.write_text("video,label,from,to\na.mp4,run,1,2\na.mp4,jump,3,4\n")
    status, _, errors = command("lists", videos, "--annotations", table, "--out", out, "--force")
    assert status == 2 and "a.mp4 has the labels run and jump, and the table has no times" in errors
    table.write_text("video,label,end\na.mp4,run,1\n")
    status, _, errors = command("lists", videos, "--annotations", table, "--out", out, "--force")
    assert status == 2 and "start and end may both be missing" in errors


def test_events_of_one_video_are_split_with_a_warning(videos, tmp_path, command):
    events, out = write_events(tmp_path / "events.csv", "a", "a.mp4,6,7,jump,x"), tmp_path / "lists"
    status, _, errors = command("lists", videos, "--annotations", events, "--out", out)
    assert status == 0 and "warning: all events are in one video, a.mp4" in errors
    assert len(samples(out, videos, "train")) == 2 and len(samples(out, videos, "val")) == 1
    status, printed, _ = command("lists", videos, "--annotations", events, "--out", out, "--val", 0, "--force")
    assert status == 0 and "TRAIN.EVAL_PERIOD 0" in printed and len(samples(out, videos, "train")) == 3


def test_the_split_of_activitynet_is_kept(videos, tmp_path, command):
    def entry(subset, *labels):
        return {"subset": subset, "annotations": [{"segment": [k, k + 1], "label": x} for k, x in enumerate(labels)]}

    database = {"a": entry("training", "x", "y"), "b": entry("validation", "y"), "c": entry("training", "x")}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    status, printed, _ = command("lists", videos, "--annotations", tmp_path / "a.json", "--out", tmp_path)
    assert status == 0 and "the annotations have a split, which is kept" in printed
    assert [row[0] for row in samples(tmp_path, videos, "train")] == ["a.mp4", "a.mp4", "c.mp4"]
    assert samples(tmp_path, videos, "val") == samples(tmp_path, videos, "test") == [("b.mp4", "y", (0.0, 1.0), "")]


def test_faults_of_events(videos, tmp_path, command):
    events = write_events(tmp_path / "events.csv", "xy")
    status, _, errors = command("lists", videos, "--annotations", events)
    assert status == 2 and f"{videos}: none of 2 annotated videos is in this folder; the first is x.mp4" in errors
    write_events(events, more="a.mp4,1,2,background,s1")
    status, _, errors = command("lists", videos, "--annotations", events, "--background", 1)
    assert status == 2 and "the annotations have a class background themselves" in errors
    status, _, errors = command("lists", videos, "--background", 1)
    assert status == 2 and "name the files of these with --annotations" in errors


def test_classes_are_in_the_order_of_classes_txt(videos, tmp_path, command):
    (videos / "classes.txt").write_text("run\nwalk\njump\n")
    events = write_events(tmp_path / "events.csv")
    assert command("lists", videos, "--annotations", events, "--out", tmp_path / "lists")[0] == 0
    assert (tmp_path / "lists/classes.txt").read_text() == "run\nwalk\njump\n"
    with open(tmp_path / "lists/train.csv", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"0", "2"}


@pytest.mark.parametrize("names, expected", [("run\nwalk\njump\n", ["run", "walk", "jump"]), (None, ["0", "1", "2"])])
def test_labels_that_are_numbers(videos, tmp_path, command, names, expected):
    if names:
        (videos / "classes.txt").write_text(names)
    events = tmp_path / "events.csv"
    events.write_text("video,start,end,label\na.mp4,1,2,0\nb.mp4,1,2,2\nc.mp4,1,2,02\n")
    assert command("lists", videos, "--annotations", events, "--out", tmp_path / "lists", "--val", 0)[0] == 0
    assert (tmp_path / "lists/classes.txt").read_text().split() == expected
    assert [row[1] for row in samples(tmp_path / "lists", videos, "train")] == [expected[0], expected[2], expected[2]]


def test_lists_beside_the_videos_can_be_written_again(videos, tmp_path, command):
    events = write_events(tmp_path / "events.csv")
    base = ["lists", videos, "--annotations", events, "--background", 1]
    assert command(*base)[0] == 0 and command(*base, "--force")[0] == 0
    assert (videos / "classes.txt").read_text().split() == ["jump", "run", "background"]


def test_folds_of_a_folder_of_class_folders(tmp_path, command):
    for name, count in {"run": 10, "jump": 6, "sit": 3}.items():
        for number in range(count):
            (tmp_path / "videos" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / name / f"p{number % 5}_{number}.mp4").touch()
    base = ["lists", tmp_path / "videos", "--out", tmp_path / "lists"]
    status, printed, errors = command(*base, "--folds", 5, "--group-by", "p[0-9]")
    assert status == 0 and "uniformer train --folds" in printed
    assert "warning: sit: only 3 videos, fewer than 5 folds" in errors
    tested = []
    for fold in range(1, 6):
        parts = {s: samples(tmp_path / f"lists/fold_{fold}", tmp_path / "videos", s) for s in ("train", "val", "test")}
        groups = [{group for *_, group in part} for part in parts.values()]
        assert sum(map(len, groups)) == 5 == len(set.union(*groups)) and sum(map(len, parts.values())) == 19
        tested += parts["test"]
    assert len(set(tested)) == len(tested) == 19
    status, _, errors = command(*base, "--folds", 3, "--force")
    assert status == 2 and "has more folds from before" in errors and "fold_4" in errors
    (tmp_path / "given/train/run").mkdir(parents=True), (tmp_path / "given/val/run").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"given/{split}/run/a.mp4").touch()
    status, _, errors = command("lists", tmp_path / "given", "--folds", 2)
    assert status == 2 and "is split already" in errors
