"""Lists renumbered by the folders of their videos keep their split."""

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.engine.preflight import check_inputs

FOLDERS = ("left", "right", "up")


def write(folder, labels, names=None):
    """Lists that number the classes differently: {split: label of each folder}."""
    folder.mkdir(exist_ok=True)
    for split, own in labels.items():
        lines = [f"{of}/{split}{k}.mp4 {label}\n" for k in range(2) for of, label in zip(FOLDERS, own, strict=True)]
        (folder / f"{split}.csv").write_text("".join(lines))
    if names:
        (folder / "classes.txt").write_text("\n".join(names))


@pytest.fixture
def videos(tmp_path):
    for name in FOLDERS:
        (tmp_path / "videos" / name).mkdir(parents=True)
        for video in ("train0", "train1", "val0", "val1"):
            (tmp_path / "videos" / name / f"{video}.mp4").touch()
    return tmp_path / "videos"


@pytest.mark.parametrize("names", [None, ["up", "Left", "right"]])
def test_the_remedy_for_labels_that_folders_contradict(tmp_path, videos, names, command):
    """The command that the note names, with which the note is gone."""
    lists, out = tmp_path / "lists", tmp_path / "out"
    write(lists, {"train": [0, 1, 2], "val": [2, 0, 1]}, names)
    keys = ["DATA.PATH_PREFIX", str(videos), "MODEL.NUM_CLASSES", 3, "TEST.ENABLE", False, "NUM_GPUS", 0]
    note = check_inputs(load_config(None, ["DATA.PATH_TO_DATA_DIR", str(lists), *keys]))[-1]
    words = note.split("`")[1].replace("NEW_FOLDER", str(out)).split()
    status, shown, errors = command(*words[1:])
    assert status == 0 and f"DATA.PATH_TO_DATA_DIR {out}" in shown, errors
    cfg = load_config(None, ["DATA.PATH_TO_DATA_DIR", str(out), *keys])
    assert check_inputs(cfg) == []
    label_of = {"left": 1, "right": 2, "up": 0} if names else {"left": 0, "right": 1, "up": 2}
    for split in ("train", "val"):
        samples = list(annotations.load(cfg, split))
        assert {sample.path.split("/")[-1][:-5] for sample in samples} == {split} and len(samples) == 6
        assert all(sample.label == label_of[sample.path.split("/")[-2]] for sample in samples)


def test_segments_and_groups_stay(tmp_path, videos, command):
    (tmp_path / "lists").mkdir()
    for split in ("train", "val"):
        row = f"up/{split}0.mp4,1,2.5,7,ann\n{videos}/left/{split}1.mp4,,,0,ben\n"
        (tmp_path / "lists" / f"{split}.csv").write_text(f"path,start,end,label,group\n{row}")
    options = ["--relabel", tmp_path / "lists", "--out", tmp_path / "out"]
    assert command("lists", videos, *options)[0] == 0
    assert (tmp_path / "out" / "val.csv").read_text().splitlines() == [
        "path,start,end,label,group",
        "up/val0.mp4,1,2.5,1,ann",
        "left/val1.mp4,,,0,ben",
    ]


@pytest.mark.parametrize(
    "names, options, message",
    [
        (["a", "b", "c"], [], "val.csv, line 1: no folder of left/val0.mp4 is a class of"),
        (None, ["--folds", 2], "--relabel keeps the videos and the split of the lists"),
    ],
)
def test_what_cannot_be_renumbered(tmp_path, videos, names, options, message, command):
    write(tmp_path / "lists", {"val": [0, 1, 2]}, names)
    status, _, errors = command("lists", videos, "--relabel", tmp_path / "lists", "--out", tmp_path / "out", *options)
    assert status == 2 and message in errors and not (tmp_path / "out").exists()


def test_without_a_train_list_there_is_nothing_to_renumber(tmp_path, videos, command):
    write(tmp_path / "lists", {"val": [0, 1, 2]})
    status, _, errors = command("lists", videos, "--relabel", tmp_path / "lists", "--out", tmp_path / "out")
    assert status == 2 and "no train.csv; give the folder of lists" in errors


@pytest.mark.parametrize("above", [("train/{}", "val/{}"), ("set/a/train/{}/x", "set/a/val/{}/y"), ("{}", "{}")])
def test_the_class_is_the_first_folder_in_which_paths_differ(tmp_path, command, above):
    lists, out = tmp_path / "lists", tmp_path / "out"
    lists.mkdir()
    for split, form in zip(("train", "val"), above, strict=True):
        lines = [f"{form.format(name)}/1.mp4 {label}\n" for label, name in enumerate(FOLDERS)]
        (lists / f"{split}.csv").write_text("".join(lines if split == "train" else reversed(lines)))
    status, shown, errors = command("lists", tmp_path, "--relabel", lists, "--out", out)
    assert status == 0 and "TEST.ENABLE False" in shown and "EVAL_PERIOD" not in shown, errors
    assert (out / "classes.txt").read_text().split() == list(FOLDERS)
    for split, form in zip(("train", "val"), above, strict=True):
        lines = (out / f"{split}.csv").read_text().splitlines()
        assert sorted(lines) == sorted(f"{form.format(name)}/1.mp4 {label}" for label, name in enumerate(FOLDERS))


def test_what_relabel_refuses(tmp_path, videos, command):
    write(tmp_path / "lists", {"train": [0, 1, 2], "test": [-1, -1, -1]})
    status, _, errors = command("lists", videos, "--relabel", tmp_path / "lists", "--out", tmp_path / "out")
    assert status == 2 and "test.csv, line 1: the video has no label" in errors
    options = ["--exclude", "*.avi", "--folds", "3"]
    status, _, errors = command("lists", videos, "--relabel", tmp_path / "lists", *options)
    assert status == 2 and "leave --folds, --exclude out" in errors


def test_no_command_is_named_where_it_would_not_help(tmp_path, videos):
    write(tmp_path / "lists", {"train": [0, 1, 2], "val": [0, 1, 2]})
    (tmp_path / "names.txt").write_text("right\nleft\nup\n")
    keys = ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "lists"), "DATA.PATH_PREFIX", str(videos), "MODEL.NUM_CLASSES", 3]
    keys += ["TEST.ENABLE", False, "NUM_GPUS", 0, "DATA.CLASS_NAMES", str(tmp_path / "names.txt")]
    note = check_inputs(load_config(None, keys))[-1]
    assert "correct the labels or the class names" in note and "--relabel" not in note
