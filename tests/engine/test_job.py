"""Training and testing from Python: the functions of the package, and what they leave in the calling program."""

import json
import logging
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

import slowfast_uniformer
from slowfast_uniformer.analysis.report import render
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine import chance, job
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.predictor import load_model
from slowfast_uniformer.runs import begin, checkpoints
from slowfast_uniformer.runs.folder import read_run
from slowfast_uniformer.runs.log import setup_logging
from slowfast_uniformer.runs.recorder import EPOCH_COLUMNS, log_line

EMPTY = str(ROOT / "tests/empty.yaml")


@pytest.fixture(autouse=True)
def package_level():
    """A test leaves the level of the package's logger as it was."""
    yield
    logging.getLogger("slowfast_uniformer").setLevel(logging.NOTSET)


def surroundings() -> tuple:
    """What belongs to the calling program: signal handlers, and handlers and levels of loggers."""
    loggers = [logging.getLogger(), logging.getLogger("slowfast_uniformer")]
    handlers = [signal.getsignal(number) for number in signals.SIGNALS]
    return handlers, [(logger.level, list(logger.handlers)) for logger in loggers]


def test_names_are_imported_at_their_first_use():
    assert slowfast_uniformer.load_model is load_model
    assert set(slowfast_uniformer.__all__) <= set(dir(slowfast_uniformer))
    assert slowfast_uniformer.train is job.train_run and slowfast_uniformer.test is job.test_run
    assert "k400/uniformer_s" in slowfast_uniformer.list_recipes()
    with pytest.raises(AttributeError, match="has no attribute trian"):
        slowfast_uniformer.trian  # noqa: B018


@pytest.mark.parametrize("small", [False, True])
def test_a_start_notes_a_batch_with_few_steps_unless_all_sizes_are_small(tiny, monkeypatch, caplog, small):
    monkeypatch.setattr(job, "train", lambda *_: None)
    job.run_job(slowfast_uniformer.load_config(EMPTY, tiny), only="train", small=small)
    assert ("16 videos in batches of 8 are only 2 steps an epoch, 4 in all" in caplog.text) != small


def test_accuracy_at_chance_is_not_noted_where_all_sizes_are_small(tiny, monkeypatch, caplog):
    """Else it is: see test_scores_with_intervals_reach_the_row_the_summary_and_the_files."""
    monkeypatch.setattr(chance, "chance_note", lambda *_: "top-1 is at chance")
    monkeypatch.setattr(chance, "MIN_STEPS", 2)
    job.run_job(slowfast_uniformer.load_config(EMPTY, [*tiny, "SOLVER.MAX_EPOCH", 1]), small=True)
    assert "testing" in caplog.text and "at chance" not in caplog.text


def test_train_then_test_and_leave_no_trace(tiny, tmp_path, capfd):
    cfg = slowfast_uniformer.load_config(EMPTY, [*tiny, "TRAIN.ENABLE", False])  # which function is called decides
    logging.getLogger("slowfast_uniformer").setLevel(logging.WARNING)
    remove = setup_logging()  # what the caller has set up
    before = surroundings()
    result = slowfast_uniformer.train(cfg, log="epochs")
    assert surroundings() == before
    shown = capfd.readouterr()
    figures = slowfast_uniformer.test(cfg)
    assert surroundings() == before
    printed = capfd.readouterr().out
    assert slowfast_uniformer.train(cfg, log="epochs") == result
    assert capfd.readouterr().out == "training is complete: 2 epochs done\n"
    remove()

    out = tmp_path / "run"
    rows = list(map(json.loads, (out / "metrics.jsonl").read_text().splitlines()))
    epochs = [row for row in rows if row["split"] in ("train_epoch", "val_epoch")]
    assert shown.out.splitlines() == [log_line(row, EPOCH_COLUMNS) for row in epochs] and len(epochs) == 4
    assert "epoch 1 [" not in shown.err and "wrote" not in shown.err
    assert f"In {out}: predictions.csv" in printed
    accuracies = [row["top1_acc"] for row in rows if row["split"] == "val_epoch"]
    assert result == {
        "output_dir": str(out),
        "checkpoint": figures["checkpoint"],  # what is tested
        "best_top1": max(accuracies),
    }
    assert [row for row in rows if row["split"] == "test_final"] == [figures]
    assert figures["checkpoint"] == str(out / "checkpoints/epoch_00002.pyth") and figures["num_videos"] == 9
    assert len((out / "starts.jsonl").read_text().splitlines()) == 3 and (out / "config.yaml").is_file()
    log = (out / "log.txt").read_text()
    assert "config, where it differs from the defaults:" in log and log.count("testing ") == 1


def test_what_is_shown_of_the_log_has_a_name(tiny, tmp_path):
    with pytest.raises(UserError, match="log: 'epoch' is none of 'all', 'epochs', 'warnings'"):
        slowfast_uniformer.train(slowfast_uniformer.load_config(EMPTY, tiny), log="epoch")
    assert not (tmp_path / "run").exists()


def test_a_run_begun_anew_in_a_used_folder_is_tested_and_continued(tiny, tmp_path, caplog):
    """The former run was longer, so that its checkpoints count as later ones, and better."""
    board = [*tiny, "TENSORBOARD.ENABLE", True, "TRAIN.KEEP_CHECKPOINTS", 1]
    longer = slowfast_uniformer.load_config(EMPTY, [*board, "SOLVER.MAX_EPOCH", 3])
    out = tmp_path / "run"
    slowfast_uniformer.train(longer)
    slowfast_uniformer.test(longer)
    assert {path.name for path in out.iterdir()} <= {*begin.FILES, ".lock"}, "what a run writes is set aside"
    former = {path: path.read_bytes() for path in (out / "checkpoints").iterdir()}

    caplog.set_level(logging.INFO)
    anew = slowfast_uniformer.load_config(EMPTY, [*board, "TRAIN.AUTO_RESUME", False, "SOLVER.BASE_LR", 1e-9])
    result = slowfast_uniformer.train(anew)
    assert (out / "log.txt").read_text().count(f"the files of the previous run are now in {out}/before_1") == 1
    figures = slowfast_uniformer.test(anew)
    assert result["checkpoint"] == figures["checkpoint"] == str(out / "checkpoints/epoch_00002.pyth")
    for path in (figures["checkpoint"], str(out / "checkpoints/best.pyth")):
        assert checkpoints.load_checkpoint(path)["cfg"]["SOLVER"]["BASE_LR"] == 1e-9
    for path, content in former.items():
        assert (out / "before_1" / "checkpoints" / path.name).read_bytes() == content
    for name in ("starts.jsonl", "metrics.jsonl"):
        rows = [len((folder / name).read_text().splitlines()) for folder in (out, out / "before_1")]
        assert rows == {"starts.jsonl": [2, 2], "metrics.jsonl": [4 + 2 + 2 + 1, 6 + 3 + 3 + 1]}[name]
    events = [list((folder / "tensorboard/run").glob("events.*")) for folder in (out, out / "before_1")]
    assert [len(files) for files in events] == [2, 2], "of training and test"

    longer = slowfast_uniformer.load_config(EMPTY, [*board, "SOLVER.BASE_LR", 1e-9, "SOLVER.MAX_EPOCH", 4])
    slowfast_uniformer.train(longer)
    assert f"continuing {out}/checkpoints/epoch_00002.pyth after epoch 2" in caplog.text
    assert not (out / "before_2").exists()


def test_training_without_a_validation_list(tiny, demo, tmp_path, caplog):
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("train.csv", "test.csv", "classes.txt"):
        (lists / name).write_text((demo / name).read_text())
    options = [*tiny, "DATA.PATH_TO_DATA_DIR", str(lists), "TRAIN.EVAL_PERIOD", 0, "TEST.TEST_BEST", True]
    cfg = slowfast_uniformer.load_config(EMPTY, [*options, "TENSORBOARD.ENABLE", True, "TENSORBOARD.PROJECTOR", True])
    latest = str(tmp_path / "run/checkpoints/epoch_00002.pyth")
    assert slowfast_uniformer.train(cfg) == {
        "output_dir": str(tmp_path / "run"),
        "checkpoint": latest,
        "best_top1": None,
    }
    assert slowfast_uniformer.test(cfg)["checkpoint"] == latest and "the latest is tested" in caplog.text
    assert "<html" in render([read_run(str(tmp_path / "run"))])
    assert not [path for path in (tmp_path / "run/checkpoints").iterdir() if "best" in path.name]


def test_the_users_own_config_yaml_stays(tiny, tmp_path):
    """Also where the caller does not name the config files; but a config that a run has written is replaced."""
    cfg = slowfast_uniformer.load_config(EMPTY, tiny)
    out = tmp_path / "run"
    out.mkdir()
    own = out / "config.yaml"
    own.write_text("# my notes\nSOLVER:\n  BASE_LR: 0.1\n")
    job._write_config(cfg, ())
    assert own.read_text().startswith("# my notes") and "BASE_LR: 0.001" in (out / "config_resolved.yaml").read_text()
    own.unlink()
    for rate in (0.001, 0.002):
        job._write_config(slowfast_uniformer.load_config(EMPTY, [*tiny, "SOLVER.BASE_LR", rate]), ())
        assert f"BASE_LR: {rate}" in own.read_text()
    own.write_text("not: [a config")
    job._write_config(cfg, ())
    assert own.read_text() == "not: [a config"


@pytest.mark.parametrize("error", [signals.Interrupted("a signal has come"), ValueError("a fault")])
def test_an_exception_leaves_no_trace_either(tiny, monkeypatch, error):
    def fail(cfg, own, small):
        raise error

    monkeypatch.setattr(job, "train", fail)
    before = surroundings()
    with pytest.raises(type(error)):
        job.train_run(slowfast_uniformer.load_config(EMPTY, tiny))
    assert surroundings() == before


SCRIPT = """
import json, sys
from slowfast_uniformer import load_config, test, train

cfg = load_config(sys.argv[1], sys.argv[2:])
# In one write: torchrun's ranks are unbuffered, and print's newline is a second write that another rank can precede.
sys.stdout.write(json.dumps([train(cfg), test(cfg), test(cfg)]) + "\\n")
"""


@pytest.mark.slow
def test_ranks_train_and_test_in_one_script(tiny, tmp_path):
    """The ranks' store, which torchrun keeps, serves one process group after another; every rank gets the figures."""
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "script.py", EMPTY]
    done = subprocess.run([*words, *map(str, tiny)], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[{")]
    assert len(results) == 2 and results[0] == results[1]
    trained, *tests = results[0]
    assert trained["best_top1"] >= 0 and tests[0]["num_videos"] == 9 and tests[0]["top1_acc"] == tests[1]["top1_acc"]
