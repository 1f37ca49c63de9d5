"""A job: the run's folder and logs, training, testing and a summary. `train_run` and `test_run` are for Python code."""

import logging
import os
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer import terminal
from slowfast_uniformer.config.load import difference, load_recipe, variant
from slowfast_uniformer.config.recipe_notes import recipe_notes
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.batch_size import batch_notes
from slowfast_uniformer.distributed import collectives, launch, signals, topology
from slowfast_uniformer.engine.intervals import summary_lines
from slowfast_uniformer.engine.precision import cuda_settings
from slowfast_uniformer.engine.preflight import check_inputs
from slowfast_uniformer.engine.published import comparison
from slowfast_uniformer.engine.scores import best_column
from slowfast_uniformer.engine.test import test
from slowfast_uniformer.engine.train import train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_write
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.begin import begin, is_config_of_a_run
from slowfast_uniformer.runs.files import append_json_lines, read_json_lines
from slowfast_uniformer.runs.log import LOG_HANDLER, PACKAGE, SHOWN, remove_logging, setup_logging
from slowfast_uniformer.runs.starts import describe_start, launchers
from slowfast_uniformer.runs.tensorboard import FOLDER

logger = logging.getLogger(__name__)
SHOWN_FILES = "predictions.csv class_scores.csv submission.csv metrics.jsonl log.txt checkpoints tensorboard".split()


def run_job(
    cfg: CfgNode,
    notes: Sequence[str] = (),
    config_files: Sequence[str] = (),
    only: str = "",
    logger_name: str = PACKAGE,
    log: str = "all",
    small: bool = False,
) -> None:
    """Train and test in one of the run's processes. Collective.

    Args:
        cfg: The run's config.
        notes: Warnings of `load_config` and `check_inputs`, to be logged.
        config_files: The files that `cfg` was loaded from; the first one alone is the recipe.
        only: "train" or "test"; by default TRAIN.ENABLE and TEST.ENABLE decide.
        logger_name: The logger whose lines are shown and written to log.txt; "" is the root logger, for a command.
        log: How much is shown, as in `train_run`.
        small: Whether all sizes were made small to try the config (--small): then there are no notes
            on a small batch and on accuracy at chance.
    """
    training = only == "train" or (not only and cfg.TRAIN.ENABLE)
    with ExitStack() as stack:
        begun = collectives.call_on_main(begin, cfg, training, stack, launchers(), config_files)
        cfg = variant(cfg, begun.overrides) if begun.overrides else cfg
        if topology.is_main():
            _write_config(cfg, config_files)
        setup_logging(cfg.OUTPUT_DIR, topology.rank(), logger_name, log)
        if topology.is_main():
            of_batch = [] if small or not training else list(_batch_notes(cfg))
            _log_config(cfg, [*notes, *begun.notes, *of_batch], config_files)
        start = describe_start(cfg)
        if topology.is_main():
            append_json_lines(os.path.join(cfg.OUTPUT_DIR, "starts.jsonl"), start)
        stack.enter_context(cuda_settings(cfg))
        if training:
            train(cfg, begun.checkpoint, small)
        metrics = test(cfg, small) if only == "test" or (not only and cfg.TEST.ENABLE) else {}
        if topology.is_main() and log == "all":
            _print_summary(cfg, metrics)


def _write_config(cfg: CfgNode, config_files: Sequence[str]) -> None:
    """Write OUTPUT_DIR/config.yaml; as config_resolved.yaml where config.yaml is the user's own file."""
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    given = os.path.realpath(path) in map(os.path.realpath, config_files)
    if given or (os.path.exists(path) and not is_config_of_a_run(path)):
        path = os.path.join(cfg.OUTPUT_DIR, "config_resolved.yaml")
    try:
        atomic_write(path, cfg.dump())
    except OSError as error:
        message = f"OUTPUT_DIR: cannot write to {cfg.OUTPUT_DIR} ({error.strerror}); set it to a folder of yours"
        raise UserError(message) from None


def _batch_notes(cfg: CfgNode) -> Iterator[str]:
    with suppress(UserError):  # a list that is too short for a batch is an error of the DataLoader
        yield from batch_notes(cfg, topology.current(), len(annotations.load(cfg, "train")))


def _log_config(cfg: CfgNode, notes: Sequence[str], config_files: Sequence[str]) -> None:
    """Log the notes on the config, and its difference from the defaults."""
    if config_files and cfg.RECIPE:
        recipe = load_recipe(config_files[0])
        notes = [*notes, *recipe_notes(cfg, recipe, topology.current(), topology.planned(recipe))]
    for note in notes:
        logger.warning("%s", note)
    logger.info("config, where it differs from the defaults:")
    sections: dict[str, list[str]] = {}
    for key, value in difference(cfg).items():
        section, dot, name = key.rpartition(".")
        sections.setdefault(f"{section}: " if dot else "", []).append(f"{name} {value}")
    for section, values in sections.items():
        logger.info("    %s%s", section, ", ".join(values))


def _print_summary(cfg: CfgNode, metrics: dict[str, Any]) -> None:
    """Print the test's metrics, the names of the run's files, and what to do next."""
    for line in [*(summary_lines(metrics) if metrics else []), *comparison(metrics, cfg)]:
        terminal.show(line)
    out = cfg.OUTPUT_DIR
    found = [name for name in SHOWN_FILES if os.path.exists(os.path.join(out, name))]
    terminal.show(f"In {out}: {', '.join(found)}")
    following = [f"uniformer report {shlex.quote(out)}"]
    following += [f"uniformer predict --checkpoint {shlex.quote(out)} VIDEO"] if "checkpoints" in found else []
    following += [f"tensorboard --logdir {shlex.quote(os.path.join(out, FOLDER))}"] if cfg.TENSORBOARD.ENABLE else []
    terminal.show("\n  ".join(["Next:", *following]))


# ------------------------------------------------------------------------------------------------- for Python code
def train_run(cfg: CfgNode, log: str = "all") -> dict[str, Any]:
    """Train a model as `uniformer train` does, without the test. `slowfast_uniformer.train` is this function.

    The run uses this process, or starts NUM_GPUS processes if there are several GPUs; then the calling script needs
    the guard `if __name__ == "__main__":`. It continues where an interrupted run of the same OUTPUT_DIR stopped,
    or sets that run's files aside (TRAIN.AUTO_RESUME False).

    Args:
        cfg: A config of `load_config`.
        log: What is shown of the log: "all" is all of it and a summary, as the command shows; "epochs" is a short line
            for each epoch and each validation, on standard output, and warnings; "warnings" is these alone. log.txt in
            the run's folder always has all.

    Returns:
        "output_dir": the run's folder; "checkpoint": the path of the checkpoint that its test takes (the latest, or the
        best by TRAIN.BEST_METRIC with TEST.TEST_BEST); "best_top1": the best validation accuracy in per cent (mAP with
        DATA.MULTI_LABEL), None without one.

    Raises:
        UserError: The input is at fault.
        Interrupted: Ctrl-C or another signal ended the run after writing a checkpoint.
    """
    _run(cfg, "train", log)
    accuracy = best_column("auto", cfg.DATA.MULTI_LABEL)
    values = [row[accuracy] for row in _rows(cfg, "val_epoch") if row.get(accuracy) is not None]
    return {
        "output_dir": cfg.OUTPUT_DIR,
        "checkpoint": checkpoints.find_tested(cfg.OUTPUT_DIR, cfg.TEST.TEST_BEST),
        "best_top1": max(values, default=None),
    }


def test_run(cfg: CfgNode, log: str = "all") -> dict[str, Any]:
    """Test a model as `uniformer test` does; `slowfast_uniformer.test` is this function. See `train_run`.

    Args:
        cfg: A config of `load_config`. The weights are TEST.CHECKPOINT_FILE_PATH, or else the latest checkpoint of
            OUTPUT_DIR (with TEST.TEST_BEST the best), or else MODEL.INIT_FROM.
        log: What is shown of the log, as in `train_run`.

    Returns:
        The run's last row of metrics.jsonl: "checkpoint", "num_videos", "coverage" and, in per cent, "top1_acc",
        "top5_acc" (of more than five classes), "mean_class_acc", "macro_f1", "map" and "ece", most with 95 % intervals
        ("top1_acc_low", "top1_acc_high"); None for a figure that is not finite.
    """
    _run(cfg, "test", log)
    if not (rows := _rows(cfg, "test_final")):
        raise UserError(f"{cfg.OUTPUT_DIR}: the test's metrics could not be written; free disk space and test again")
    return rows[-1]


def _run(cfg: CfgNode, only: str, log: str) -> None:
    """Run `run_job` in the run's processes, and leave the calling program as it was."""
    if log not in SHOWN:
        raise UserError(f"log: {log!r} is none of {', '.join(map(repr, SHOWN))}")
    with _restored_process_state():
        launch.launch(partial(run_job, notes=check_inputs(cfg, only), only=only, log=log), cfg)


def _rows(cfg: CfgNode, split: str) -> list[dict[str, Any]]:
    """The rows of a split in metrics.jsonl: of a run whose processes may have ended."""
    return [row for row in read_json_lines(os.path.join(cfg.OUTPUT_DIR, "metrics.jsonl")) if row["split"] == split]


@contextmanager
def _restored_process_state() -> Iterator[None]:
    """Leave the signal handlers and loggers of the calling program as they were."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS} if in_main_thread else {}
    package_logger = logging.getLogger(PACKAGE)
    level, log_handlers = package_logger.level, package_logger.handlers[:]
    package_logger.handlers[:] = [handler for handler in log_handlers if handler.name != LOG_HANDLER]
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None was not installed by Python code and cannot be put back
                signal.signal(number, handler)
        remove_logging()
        package_logger.handlers[:] = log_handlers
        package_logger.setLevel(level)
