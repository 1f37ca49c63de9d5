"""Training and testing from Python: the functions of the package, and what they leave in the calling program."""

import json
import logging
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

import slowfast_uniformer
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine import job
from slowfast_uniformer.inference.predictor import load_model
from slowfast_uniformer.runs.log import setup_logging

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


def test_train_then_test_and_leave_no_trace(tiny, tmp_path, capfd):
    cfg = slowfast_uniformer.load_config(EMPTY, [*tiny, "TRAIN.ENABLE", False])  # which function is called decides
    logging.getLogger("slowfast_uniformer").setLevel(logging.WARNING)
    remove = setup_logging()  # what the caller has set up
    before = surroundings()
    result = slowfast_uniformer.train(cfg)
    assert surroundings() == before
    figures = slowfast_uniformer.test(cfg)
    assert surroundings() == before
    remove()

    out = tmp_path / "run"
    rows = list(map(json.loads, (out / "metrics.jsonl").read_text().splitlines()))
    accuracies = [row["top1_acc"] for row in rows if row["split"] == "val_epoch"]
    assert result == {
        "output_dir": str(out),
        "checkpoint": str(out / "checkpoints/best.pyth"),
        "best_top1": max(accuracies),
    }
    assert [row for row in rows if row["split"] == "test_final"] == [figures]
    assert figures["checkpoint"] == str(out / "checkpoints/epoch_00002.pyth") and figures["num_videos"] == 9
    assert len((out / "starts.jsonl").read_text().splitlines()) == 2 and (out / "config.yaml").is_file()
    log = (out / "log.txt").read_text()
    assert "config, where it differs from the defaults:" in log and log.count("testing ") == 1


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
    def fail(cfg):
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
