"""Log lines on the console and in files, and the progress of phases."""

import logging
import sys
import threading

import pytest

from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.log import EPOCH_LINE, Phase, progress, remove_logging, setup_logging


@pytest.fixture(autouse=True)
def logging_as_before():
    yield
    remove_logging()


def test_lines_go_to_console_and_file_once(tmp_path, capsys):
    setup_logging()
    setup_logging(str(tmp_path / "run"))
    setup_logging(str(tmp_path / "run"))
    logging.getLogger("slowfast_uniformer.any").info("training %d", 5)
    logging.getLogger("slowfast_uniformer.other").warning("odd")
    logging.getLogger("slowfast_uniformer.other").debug("details")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["training 5", "warning: odd"]
    captured = capsys.readouterr()
    assert captured.err.splitlines() == lines and captured.out == ""


def test_logging_of_the_importing_program_stays_as_it_is(capsys, caplog):
    root, package = logging.getLogger(), logging.getLogger("slowfast_uniformer")
    before = root.level, list(root.handlers), package.level, list(package.handlers)
    remove = setup_logging()
    assert (root.level, root.handlers) == before[:2]
    logging.getLogger("elsewhere").warning("not ours")
    logging.getLogger("slowfast_uniformer.any").info("ours")
    assert "not ours" not in (shown := capsys.readouterr().err) and "ours" in shown
    assert "ours" in caplog.messages, "the lines still reach the root logger's handlers"
    remove()
    assert (root.level, root.handlers, package.level, package.handlers) == before
    logging.getLogger("slowfast_uniformer.any").info("later")
    assert capsys.readouterr().err == ""


def test_a_commands_log_has_the_lines_of_other_libraries(tmp_path):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    remove = setup_logging(str(tmp_path), logger_name="")
    logging.getLogger("my_models").info("built")
    logging.getLogger("slowfast_uniformer.any").info("step 1")
    remove()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["built", "step 1"]
    assert (root.level, root.handlers) == before


def test_other_ranks_show_only_warnings_and_have_their_own_log_files(tmp_path, capsys):
    setup_logging(str(tmp_path), rank=3)
    logger = logging.getLogger("slowfast_uniformer")
    logger.info("training")
    logger.error("no")
    lines = (tmp_path / "logs" / "rank_3.txt").read_text().splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["[rank 3] training", "[rank 3] error: no"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_log_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="OUTPUT_DIR: cannot write .*file/log.txt"):
        setup_logging(str(tmp_path / "file"))


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(caplog):
    """What phases have written to the log since the last call."""
    caplog.set_level(logging.INFO)

    def since() -> list[str]:
        found = caplog.messages
        caplog.clear()
        return found

    return since


def test_a_phase_writes_a_line_after_ten_seconds_and_then_each_minute_with_what_is_left(lines):
    clock = Clock()
    phase = Phase("fit the classifier", 480, "clip", clock=clock)
    for second in range(1, 241):  # half a clip a second
        clock.now = 1000.0 + second
        phase.advance(second % 2)
        phase.write_if_due()
    assert lines() == [
        "fit the classifier: 5 of 480 clips, 16 min left",
        "fit the classifier: 35 of 480 clips, 15 min left",
        "fit the classifier: 65 of 480 clips, 14 min left",
        "fit the classifier: 95 of 480 clips, 13 min left",
    ]


def test_a_phase_of_less_than_ten_seconds_writes_nothing(lines):
    clock = Clock()
    phase = Phase("check", 100, "video", clock=clock)
    clock.now += 9.9
    phase.write_if_due()
    assert lines() == []


def test_a_phase_that_waits_says_so(lines):
    clock = Clock()
    epoch, read = Phase("epoch 1", 75, "step", clock=clock), Phase("read a.pyth", clock=clock)
    clock.now += 125
    epoch.write_if_due()
    read.write_if_due()
    assert lines() == ["epoch 1: 0 of 75 steps after 2 min", "read a.pyth: 2 min so far"]


def test_other_lines_of_a_phase_count(lines):
    """Those of LOG_PERIOD, in an epoch."""
    clock = Clock()
    phase = Phase("epoch 1", 75, "step", clock=clock)
    for seconds in (9, 50, 50, 50, 50):
        clock.now += seconds
        phase.advance()
        phase.line_written()
        phase.write_if_due()
    assert lines() == []
    clock.now += 60
    phase.write_if_due()
    assert lines() == ["epoch 1: 5 of 75 steps, 1 h 3 min left"]


def test_what_an_earlier_process_has_done_is_not_taken_for_speed():
    clock = Clock()
    phase = Phase("epoch 3", 100, "step", done=90, clock=clock)
    clock.now += 60
    assert phase.line() == "epoch 3: 90 of 100 steps after 1 min"
    phase.advance(5)
    assert phase.line() == "epoch 3: 95 of 100 steps, 1 min left"
    phase.advance(8)  # the last batch is smaller
    assert phase.line() == "epoch 3: 100 of 100 steps, 0 s left"
    assert Phase("predict", 1, "video").line() == "predict: 0 of 1 video after 0 s"


def test_lines_come_while_nothing_is_done(monkeypatch, lines):
    """A thread writes them."""
    monkeypatch.setattr("slowfast_uniformer.runs.log.FIRST_SECONDS", 0.0)
    written = threading.Event()
    monkeypatch.setattr("slowfast_uniformer.runs.log.write_line", lambda line: written.set())
    with Phase("read a.pyth") as phase:
        assert written.wait(60)
    assert phase._ended.is_set()


def test_only_rank_0_shows_a_phase(monkeypatch):
    monkeypatch.setattr(topology, "is_main", lambda: False)
    before = threading.active_count()
    with Phase("check", 2, "video"):
        assert threading.active_count() == before


def test_a_command_without_a_log_writes_to_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda self: False)
    clock = Clock()
    phase = Phase("explain", 9, "video", clock=clock)
    clock.now += 60
    phase.write_if_due()
    assert capsys.readouterr() == ("", "explain: 0 of 9 videos after 1 min\n")
    monkeypatch.setattr(sys, "stderr", None)  # closed
    clock.now += 60
    phase.write_if_due()
    assert capsys.readouterr().out == ""


def test_progress_bar_only_on_a_terminal_of_rank_0(monkeypatch, capsys):
    numbers = [1, 2, 3]
    assert list(progress(numbers, 3, "validation", "video")) == numbers
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(numbers, 3, "validation", "video")) == numbers
    assert "validation" in capsys.readouterr().err
    assert list(progress(numbers, 3, "explain", "video", bar=False)) == numbers
    with Phase("test", 3, "video") as phase:
        phase.advance(2)
        phase.advance(2)  # the last batch of all ranks may not be full
        assert phase._bar.n == 3
    capsys.readouterr()
    monkeypatch.setattr(topology, "is_main", lambda: False)
    assert list(progress(numbers, 3, "validation", "video")) == numbers
    assert capsys.readouterr().err == ""


def test_a_terminal_that_goes_away_ends_nothing(monkeypatch, tmp_path):
    setup_logging(str(tmp_path))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Phase("epoch 1", 3, "step") as phase:

        def fail(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(sys.stderr, "write", fail)
        phase.advance(3)
        phase._on_bar("refresh")
        logging.getLogger("slowfast_uniformer.any").info("step 3")
    assert "step 3" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("shown, out", [("epochs", "epoch 1 mean  loss 2\n"), ("warnings", "")])
def test_less_of_the_log_is_shown_and_all_of_it_written(tmp_path, capsys, shown, out):
    setup_logging(str(tmp_path), shown=shown)
    logger = logging.getLogger("slowfast_uniformer.any")
    logger.info("epoch 1 mean  loss 2  clips/s 3", extra={EPOCH_LINE: "epoch 1 mean  loss 2"})
    logger.info("epoch 1 [1/2]", extra={EPOCH_LINE: ""})
    logger.info("wrote a file")
    logger.warning("odd")
    captured = capsys.readouterr()
    assert captured.out == out and captured.err.endswith("warning: odd\n") and captured.err.count("\n") == 1
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 4
