"""`uniformer train` and tools/run_net.py: what a user sees when the input is at fault."""

import csv
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import slowfast_uniformer

TEST_ONLY = ["TRAIN.ENABLE", False]


def message(outcome, *parts, status=2):
    """Check one clear message: the status, no traceback, the parts in the single error line."""
    code, _, errors = outcome
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == status and "Traceback" not in errors, errors
    assert len(lines) == 1 and all(part in lines[0] for part in parts), errors


@pytest.fixture
def lists(demo, tmp_path, tiny):
    """Write lists with bad lines among the demo's; returns the overrides that use them."""

    def write(bad: list[str], good: int = 8, splits=("train", "val", "test")) -> list:
        folder = tmp_path / "lists"
        folder.mkdir()
        for split in ("train", "val", "test"):
            lines = [*bad] if split in splits else []
            lines += (demo / f"{split}.csv").read_text().splitlines()[:good]
            (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
        return [*tiny, "DATA.PATH_TO_DATA_DIR", str(folder)]

    return write


@pytest.mark.parametrize(
    "bad, parts",
    [
        ("left/left_0001.mp4", ["train.csv, line 1", "2 fields", "DATA.PATH_LABEL_SEPARATOR"]),
        ("left/left_0001.mp4 8", ["train.csv, line 1", "label 8", "MODEL.NUM_CLASSES"]),
    ],
)
def test_bad_list_lines(lists, run_net, bad, parts):
    message(run_net(lists([bad])), *parts)


@pytest.fixture
def unreadable(tmp_path):
    """Lines of a list that end a training at its first step."""
    for k in range(16):
        (tmp_path / f"bad{k}.mp4").touch()
    return [f"{tmp_path}/bad{k}.mp4 {k % 8}" for k in range(16)]


def test_a_config_in_the_run_s_folder_is_not_overwritten(lists, unreadable, run_net, tmp_path):
    given = tmp_path / "config.yaml"
    given.write_text("SOLVER: {MOMENTUM: 0.5}\n")
    options = [*lists(unreadable), "OUTPUT_DIR", tmp_path]
    message(run_net(options, str(given)), "DATA.MAX_BAD_FRACTION")
    assert given.read_text() == "SOLVER: {MOMENTUM: 0.5}\n"
    assert "MOMENTUM: 0.5" in (tmp_path / "config_resolved.yaml").read_text()


def test_departures_from_a_recipe_are_logged_once(lists, unreadable, run_net, tmp_path):
    options = [*lists(unreadable), "OUTPUT_DIR", tmp_path]
    options += ["RECIPE", "mine", "TRAIN.BATCH_SIZE", 8]
    _, _, errors = run_net(options)
    notes = [line for line in errors.splitlines() if "mine has a global batch of 64" in line]
    assert len(notes) == 1 and "warning: " in notes[0] and "SOLVER.BASE_LR would be 0.0125" in notes[0]
    assert (tmp_path / "log.txt").read_text().count("mine has a global batch of 64") == 1


def test_missing_and_empty_lists(lists, run_net, tmp_path):
    options = lists([], good=0)
    message(run_net(options), "train.csv", "empty")
    (tmp_path / "lists" / "train.csv").unlink()
    options += ["OUTPUT_DIR", str(tmp_path / "other")]
    message(run_net(options), "train.csv", "DATA.PATH_TO_DATA_DIR", "uniformer lists")
    assert not (tmp_path / "other").exists()  # found before the run begins


def test_videos_that_are_all_missing_end_a_training(lists, run_net):
    outcome = run_net([*lists([]), "DATA.PATH_PREFIX", "/nowhere"])
    message(outcome, "none is there", "/nowhere/", "DATA.PATH_PREFIX")


def test_bad_videos_in_training_are_replaced_counted_and_named(lists, run_net, demo, tmp_path):
    (tmp_path / "bad.mp4").write_text("this is no video")
    options = lists([f"{tmp_path}/bad.mp4 0", "gone.mp4 1"], splits=("train",))
    options += ["SOLVER.MAX_EPOCH", 3, "TRAIN.BATCH_SIZE", 5, "TEST.ENABLE", False]
    status, _, errors = run_net(options)
    assert status == 0, errors
    assert f"replaced by another video: cannot read {tmp_path}/bad.mp4" in errors and "gone.mp4" in errors
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    counts = [row["bad_videos"] for row in rows if row["split"] == "train_epoch"]
    assert len(counts) == 3 and all(count >= 2 for count in counts)  # a replacement may be the other bad one


def test_bad_videos_in_testing_are_not_predicted(lists, run_net, tmp_path):
    (tmp_path / "bad.mp4").write_text("this is no video")
    options = lists([f"{tmp_path}/bad.mp4 0", "gone.mp4 1"], splits=("test",))
    options = [*options, "SOLVER.MAX_EPOCH", 1]
    message(run_net(options), "2 of 10 videos", "bad.mp4", "TEST.MIN_COVERAGE 80")
    run = tmp_path / "run"
    (final,) = [row for row in map(json.loads, open(run / "metrics.jsonl")) if row["split"] == "test_final"]
    rows = list(csv.DictReader(open(run / "predictions.csv")))
    assert final["coverage"] == 80 and final["num_videos"] == len(rows) == 10
    assert [row["prediction"] == "" for row in rows] == [True] * 2 + [False] * 8
    assert final["top1_acc"] == 10 * sum(row["correct"] == "1" for row in rows)
    assert run_net([*options, *TEST_ONLY, "TEST.MIN_COVERAGE", 80])[0] == 0


def test_a_frame_folder_shorter_than_its_list_says(tiny, run_net, demo, tmp_path):
    folder = tmp_path / "sth"
    folder.mkdir()
    name = sorted((demo / "frames").iterdir())[0].name
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text(f"{name} 40 0\n" * 8)
    options = [*tiny, "TRAIN.DATASET", "sth", "TEST.DATASET", "sth", "DATA.LABEL_PATH_TEMPLATE", "{}.csv"]
    options += ["DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(demo / "frames")]
    message(run_net(options), name, "00017.jpg", "40")


def test_unknown_keys_and_files(tiny, run_net):
    message(run_net([*tiny, "SOLVER.BASELR", 1]), "unknown key SOLVER.BASELR", "SOLVER.BASE_LR")
    message(run_net(tiny, "absent.yaml"), "absent.yaml: no such config file or recipe")


def test_a_checkpoint_of_other_classes(tiny, run_net, tmp_path):
    assert run_net([*tiny, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False])[0] == 0
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {k}\n" for k in range(9)))
    nine = [*tiny, *TEST_ONLY, "MODEL.NUM_CLASSES", 9, "DATA.CLASS_NAMES", str(names)]
    message(run_net(nine), "epoch_00001.pyth", "class", "DATA.CLASS_NAMES")
    names.write_text("")
    checkpoint = str(tmp_path / "run" / "checkpoints" / "epoch_00001.pyth")
    unnamed = ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "lists"), "MODEL.NUM_CLASSES", 9]
    (tmp_path / "lists").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "lists" / f"{split}.csv").write_text("left/left_0001.mp4 0\n" * 8)
    outcome = run_net([*tiny, *unnamed, *TEST_ONLY, "TEST.CHECKPOINT_FILE_PATH", checkpoint])
    message(outcome, "8 classes", "MODEL.NUM_CLASSES is 9", "epoch_00001.pyth")


def test_an_output_folder_that_cannot_be_written(tiny, run_net, tmp_path):
    (tmp_path / "file").write_text("")
    message(run_net([*tiny, "OUTPUT_DIR", str(tmp_path / "file" / "run")]), "OUTPUT_DIR", "file/run")


def test_nothing_to_test(tiny, run_net):
    message(run_net([*tiny, *TEST_ONLY]), "nothing to test", "TEST.CHECKPOINT_FILE_PATH")


def test_several_machines_need_an_address(tiny, run_net):
    message(run_net(tiny, "--num_shards", "2"), "NUM_SHARDS", "--init_method")


def test_a_run_that_begins_anew_says_so_and_how_it_is_continued(tiny, run_net, tmp_path, monkeypatch):
    from slowfast_uniformer.distributed.signals import Interrupted
    from slowfast_uniformer.engine import job

    one, anew = [*tiny, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False], ["TRAIN.AUTO_RESUME", False]
    assert run_net(one)[0] == 0
    status, _, errors = run_net([*one, *anew])
    assert status == 0 and f"the files of the previous run are now in {tmp_path}/run/before_1" in errors
    assert "starting from random weights" in errors

    def interrupt(cfg, own, small):
        raise Interrupted("a signal has requested a stop")

    monkeypatch.setattr(job, "train", interrupt)
    assert run_net(one)[2].splitlines()[-1] == "interrupted; run the same command again to continue"
    status, _, errors = run_net([*one, *anew])
    assert status == 75
    assert errors.splitlines()[-1] == "interrupted; run the same command with TRAIN.AUTO_RESUME True to continue"


def test_the_difference_from_the_defaults_is_printed(tiny, run_net):
    _, _, errors = run_net([*tiny, *TEST_ONLY, "MULTIGRID.SHORT_CYCLE", False])
    (line,) = [line for line in errors.splitlines() if "    SOLVER: " in line]
    assert "OPTIMIZING_METHOD adamw" in line and "MOMENTUM" not in line
    assert any("    NUM_GPUS 0, " in line for line in errors.splitlines()), "keys without a section"
    assert "MULTIGRID.SHORT_CYCLE ignored" in errors


@pytest.mark.slow
def test_two_machines_started_by_hand(tiny, tmp_path):
    """--num_shards, --shard_id and --init_method as SlowFast has them, two processes of one device each."""
    from slowfast_uniformer.distributed.launch import _free_port

    command = [sys.executable, str(ROOT / "tools" / "run_net.py"), "--num_shards", "2"]
    command += ["--init_method", f"tcp://127.0.0.1:{_free_port()}"]
    command += ["--cfg", str(ROOT / "tests" / "empty.yaml")]
    options = [*map(str, tiny), "SOLVER.MAX_EPOCH", "1", "TRAIN.BATCH_SIZE", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, *options, "SHARD_ID", str(k)], stderr=subprocess.PIPE, text=True, env=environment)
        for k in range(2)
    ]
    try:
        errors = [process.communicate(timeout=200)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train_iter"] * 2 + ["train_epoch", "val_epoch", "test_final"]
    assert "global batch 8 videos" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | head -n 1"])
def test_streams_that_cannot_be_written_end_no_training(tiny, tmp_path, streams):
    command = f'set -o pipefail; "$0" tools/run_net.py --cfg tests/empty.yaml "$@" {streams}'
    words = ["bash", "-c", command, sys.executable, *map(str, [*tiny, "DATA_LOADER.NUM_WORKERS", 1])]
    done = subprocess.run(words, capture_output=True, cwd=ROOT)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert done.returncode == 0 and rows[-1]["split"] == "test_final"
    assert (tmp_path / "run" / "log.txt").read_text().splitlines()[-1].partition("] ")[2].startswith("test  top1")
    assert (tmp_path / "run" / "checkpoints" / "epoch_00002.pyth").is_file()


def test_a_program_without_streams_trains(tiny, tmp_path, monkeypatch):
    """As under pythonw, and in some servers."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    cfg = slowfast_uniformer.load_config(str(ROOT / "tests/empty.yaml"), [*tiny, "SOLVER.MAX_EPOCH", 1])
    assert slowfast_uniformer.train(cfg)["checkpoint"]
    assert slowfast_uniformer.test(cfg)["num_videos"] == 9


def test_a_run_in_a_folder_whose_name_is_not_utf_8(tiny, run_net, tmp_path, pytestconfig):
    out = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    options = [*tiny, "OUTPUT_DIR", out]
    status, _, errors = run_net([*options, "SOLVER.MAX_EPOCH", 1])
    assert status == 0 and "caf\\udce9" in errors
    assert run_net(options)[0] == 0  # resumed
    assert "caf\\udce9" in open(os.path.join(out, "log.txt"), encoding="utf-8").read()
    assert slowfast_uniformer.load_config(os.path.join(out, "config.yaml")).OUTPUT_DIR == out
    # pytest-xdist could not send the captured log lines
    pytestconfig.pluginmanager.get_plugin("logging-plugin").report_handler.reset()
