"""Log lines on the console and in files, and progress bars."""

import logging
import sys

import pytest

from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.log import progress, remove_logging, setup_logging


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


def test_progress_bar_only_on_a_terminal_of_rank_0(monkeypatch, capsys):
    numbers = [1, 2, 3]
    assert progress(numbers, 3, "epoch 1") is numbers
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(numbers, 3, "epoch 1")) == numbers
    assert "epoch 1" in capsys.readouterr().err
    monkeypatch.setattr(topology, "is_main", lambda: False)
    assert progress(numbers, 3, "epoch 1") is numbers
