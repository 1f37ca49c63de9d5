"""What a run needs is looked at before its first step."""

import logging
import shutil

import pytest

import slowfast_uniformer
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.engine.preflight import check_inputs, weights_notes
from slowfast_uniformer.errors import UserError


@pytest.fixture
def lists(demo, tmp_path, tiny):
    """A folder with a copy of the demo's lists, and the overrides that use it."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for name in ("train.csv", "val.csv", "test.csv", "classes.txt"):
        shutil.copy(demo / name, folder)
    return folder, [*tiny, "DATA.PATH_TO_DATA_DIR", str(folder)]


def test_good_inputs(lists):
    assert check_inputs(load_config(None, lists[1])) == []


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("test.csv", None, "test.csv: cannot read the test list.*TEST.ENABLE False"),
        ("test.csv", "left/left_0001.mp4\n", "test.csv, line 1"),
        ("val.csv", None, "val.csv: cannot read the val list.*TRAIN.EVAL_PERIOD 0"),
        ("val.csv", "left/left_0001.mp4 8\n", "val.csv, line 1"),
        ("val.csv", "path,label\n", "the val list is empty; write a video and its label.*; TRAIN.EVAL_PERIOD 0"),
        ("classes.txt", "a\nb\n", "2 class names, but MODEL.NUM_CLASSES is 8"),
    ],
)
def test_faulty_lists_are_found_before_the_training(lists, tmp_path, name, text, message):
    folder, options = lists
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    cfg = load_config(None, options)
    with pytest.raises(UserError, match=message):
        check_inputs(cfg)
    if name != "test.csv":
        with pytest.raises(UserError, match=message):
            slowfast_uniformer.train(cfg)
    assert not (tmp_path / "run").exists()


def test_only_what_is_used_is_looked_at(lists):
    folder, options = lists
    (folder / "test.csv").unlink()
    check_inputs(load_config(None, [*options, "TEST.ENABLE", False]))
    check_inputs(load_config(None, options), only="train")
    (folder / "val.csv").unlink()
    check_inputs(load_config(None, [*options, "TEST.ENABLE", False, "TRAIN.EVAL_PERIOD", 0]))
    with pytest.raises(UserError, match="test.csv"):
        check_inputs(load_config(None, options), only="test")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda line: f"away/{line}", r"/away/approaching/.*Check DATA.PATH_PREFIX.* a disk or mount"),
        (
            lambda line: line.replace(".mp4", ""),
            r"/approaching_0001.mp4 is: write the names of files with their endings",
        ),
        (lambda line: f"C:\\{line}", r"Write the paths as they are on this machine"),
        (lambda line: line.replace("/", "/\u200b"), r"the first '.*/\\u200bapproaching_0001"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_of_videos_that_are_not_there(lists, split, change, message):
    folder, options = lists
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / f"{split}.csv").write_text("\n".join(map(change, lines)))
    with pytest.raises(UserError, match=f"{split}.csv: 8 of .* tried, and none is there.*{message}"):
        check_inputs(load_config(None, options))
    (folder / f"{split}.csv").write_text("\n".join([*lines[:1], *map(change, lines[1:])]))
    check_inputs(load_config(None, options))


def test_other_inputs_are_found_before_the_training(lists, tmp_path):
    (tmp_path / "file").write_text("")
    for overrides, message in (
        (["OUTPUT_DIR", str(tmp_path / "file")], "OUTPUT_DIR: cannot write to .*file"),
        (["OUTPUT_DIR", str(tmp_path / "file" / "run")], "OUTPUT_DIR: cannot write to .*file/run"),
        (
            ["TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "none.pyth")],
            "TEST.CHECKPOINT_FILE_PATH: no such file or folder: .*none",
        ),
        (["DATA.RANDOM_FLIP", True, "DATA.FLIP_LABELS", str(tmp_path / "none.json")], "none.json: cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            check_inputs(load_config(None, [*lists[1], *overrides]))
    best = str(tmp_path / "run" / "checkpoints" / "best.pyth")
    check_inputs(load_config(None, [*lists[1], "TEST.CHECKPOINT_FILE_PATH", best]))  # the training is to write it


def test_weights_of_the_wrong_size_are_noted_where_the_run_comes_later(lists, tmp_path):
    path = tmp_path / "uniformer_small_k400_16x4.pth"
    path.write_bytes(bytes(100))
    start = [*lists[1], "MODEL.INIT_FROM", str(path)]
    both = load_config(None, [*start, "TEST.CHECKPOINT_FILE_PATH", str(path)])
    assert not [note for note in check_inputs(both) if "bytes" in note], "a run says so when it loads them"
    notes = [note.split(f": {path}: it has 100 bytes")[0] for note in check_inputs(both, fetch=False)]
    assert notes[-2:] == ["MODEL.INIT_FROM", "TEST.CHECKPOINT_FILE_PATH"]
    unused = ["TRAIN.CHECKPOINT_FILE_PATH", str(tmp_path)]
    assert weights_notes(load_config(None, [*start, *unused])) == []
    assert weights_notes(load_config(None, [*start, "TRAIN.ENABLE", False])) == []
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "epoch_00001.pyth").touch()
    assert weights_notes(load_config(None, start)) == [], "a run that continues reads none"


def test_classes_that_cannot_be_balanced_are_found_before_the_training(lists):
    folder, options = lists
    options = [*options, "TRAIN.EVAL_PERIOD", 0, "TEST.ENABLE", False]
    zeros = ["SOLVER.CLASS_WEIGHTS", [0] * 8 + [1], "MODEL.NUM_CLASSES", 9]
    zeros += ["DATA.CLASS_NAMES", str(folder / "nine.txt")]
    (folder / "nine.txt").write_text("".join(f"class {k}\n" for k in range(9)))
    with pytest.raises(UserError, match="SOLVER.CLASS_WEIGHTS: all classes that have training videos weigh 0"):
        check_inputs(load_config(None, [*options, *zeros]))
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("".join(f"{line.rpartition(' ')[0]} -\n" for line in lines))
    several = [*options, "DATA.MULTI_LABEL", True]
    assert "no video of the train list has a label" in check_inputs(load_config(None, several))[0]
    for overrides, message in (
        (["DATA.SAMPLER", "sqrt"], "DATA.SAMPLER: sqrt goes by labels, and no video of the train list has one"),
        (["SOLVER.CLASS_WEIGHTS", "inverse"], "SOLVER.CLASS_WEIGHTS: no video of the train list has a label"),
    ):
        with pytest.raises(UserError, match=message):
            check_inputs(load_config(None, [*several, *overrides]))


def test_lists_are_parsed_once(lists, monkeypatch):
    cfg, parsed = load_config(None, lists[1]), []
    read = annotations._read
    monkeypatch.setattr(annotations, "_read", lambda cfg, split: parsed.append(split) or read(cfg, split))
    check_inputs(cfg)
    for split in ("train", "val", "test"):
        annotations.load(cfg, split)
    assert parsed == ["train", "val", "test"]


def test_notes_are_logged_and_a_half_labelled_list_is_scored(lists, trained, caplog):
    folder, options = lists
    lines = (folder / "test.csv").read_text().splitlines()
    half = [line.rpartition(" ")[0] + " -1" if k % 2 else line for k, line in enumerate(lines)]
    (folder / "test.csv").write_text("\n".join(half) + "\n")
    weights = ["TEST.CHECKPOINT_FILE_PATH", str(trained)]
    metrics = slowfast_uniformer.test(load_config(None, [*options, *weights]))
    (folder / "test.csv").write_text("\n".join(lines[::2]) + "\n")
    labelled = slowfast_uniformer.test(load_config(None, [*options, *weights]))
    assert metrics["num_videos"] == len(lines) and metrics["num_labelled"] == labelled["num_videos"] == len(lines[::2])
    for key in ("top1_acc", "top5_acc", "mean_class_acc"):
        assert metrics[key] == labelled[key]
    assert f"scores are of the {len(lines[::2])} labelled of {len(lines)} test videos" in caplog.text

    caplog.set_level(logging.WARNING)
    (folder / "test.csv").write_text((folder / "train.csv").read_text())
    one_epoch = ["SOLVER.MAX_EPOCH", 1, "TRAIN.EVAL_PERIOD", 0]
    (folder / "classes.txt").unlink()
    slowfast_uniformer.train(load_config(None, [*options, *one_epoch, "MODEL.NUM_CLASSES", 400]))
    assert "MODEL.NUM_CLASSES is 400, but the lists use 8 labels" in caplog.text
