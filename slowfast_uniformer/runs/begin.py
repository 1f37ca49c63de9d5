"""How a run begins in a used OUTPUT_DIR: it continues the run that is there, or sets that run's files aside.

They go to OUTPUT_DIR/before_1, before_2 and so on. Until all are there, the folder is called before_N.moving, and the
next start of any kind moves the rest: files of two runs are never mixed, whenever a process is killed.
"""

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import get_cfg
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import flush_to_disk
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.starts import is_restart

# All that a run writes to OUTPUT_DIR, checkpoints first. What is known of the data stays for the next run
# (bad_files.txt, check_dataset.*), and so do SLURM's logs, which the job in progress writes.
FILES = (
    "checkpoints",
    "predictions.csv",
    "class_scores.csv",
    "submission.csv",
    "metrics.jsonl",
    "skipped_steps.jsonl",
    "tensorboard",
)
FILES += ("tracker.json", "tracker.log", "wandb", "report.html", "config.yaml", "config_resolved.yaml")
FILES += ("class_balance.csv", "logs", "log.txt", "starts.jsonl")
_MOVING = ".moving"
_BEFORE = re.compile(rf"before_(\d+)({re.escape(_MOVING)})?")


@dataclass
class Begun:
    """How a run begins.

    Attributes:
        checkpoint: the run's own, to continue from; None where it begins anew.
        notes: to be logged.
        overrides: KEY, VALUE, ... of the keys that name a checkpoint which has been set aside.
    """

    checkpoint: str | None = None
    notes: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)


def begin(
    cfg: CfgNode, training: bool, stack: ExitStack, launchers: Sequence[str] = (), config_files: Collection[str] = ()
) -> Begun:
    """Lock OUTPUT_DIR, and decide what becomes of the run that it holds, before anything is written there. For rank 0.

    It is continued with TRAIN.AUTO_RESUME, or where the launcher that began it restarts it. Otherwise a new run begins,
    and the former one's files are set aside; with TRAIN.AUTO_RESUME only if it has come to a checkpoint or a test.

    Args:
        cfg: the run's config.
        training: whether it trains; for a test alone nothing is set aside.
        stack: the folder is locked until it ends.
        launchers: of this run (`starts.launchers`).
        config_files: the files that `cfg` was loaded from, which stay where they are.

    Raises:
        UserError: nobody can write there, another process is training there, or the files cannot be set aside.
    """
    out, begun = cfg.OUTPUT_DIR, Begun()
    if held := _lock(out, training, stack):
        begun.notes.append(held)
        if not training:
            return begun

    def set_aside(folder: str) -> None:
        if held:  # by a run that may well be alive
            raise UserError(
                f"{held}, so its files cannot be set aside. Wait until it has ended, or set another OUTPUT_DIR"
            )
        _move(out, folder, config_files)

    for name in os.listdir(out):
        if (match := _BEFORE.fullmatch(name)) and match[2]:
            set_aside(os.path.join(out, name))
    if not training:
        return begun
    continues = cfg.TRAIN.AUTO_RESUME
    if not continues and is_restart(out, launchers):
        begun.notes.append(
            "TRAIN.AUTO_RESUME False is ignored: the job that began the run was restarted, so the run is continued"
        )
        continues = True
    if continues:
        begun.checkpoint, damaged = checkpoints.latest_undamaged(out)
        begun.notes += damaged
    if begun.checkpoint or not _files(out) or (continues and not _has_results(out)):
        return begun
    moved = {
        "MODEL.INIT_FROM": _name_inside(cfg.MODEL.INIT_FROM, out),
        "TRAIN.CHECKPOINT_FILE_PATH": _name_inside(cfg.TRAIN.CHECKPOINT_FILE_PATH, out, resume=True),
    }
    number = max((int(match[1]) for match in map(_BEFORE.fullmatch, os.listdir(out)) if match), default=0) + 1
    folder = os.path.join(out, f"before_{number}")
    set_aside(folder + _MOVING)
    for key, name in moved.items():
        begun.overrides += [key, os.path.join(folder, name)] if name else []
    why = "no checkpoint to continue from" if continues else "TRAIN.AUTO_RESUME False"
    begun.notes.append(f"{why}: a new run begins; the files of the previous run are now in {folder}")
    return begun


def _lock(output_dir: str, training: bool, stack: ExitStack) -> str:
    """Lock the folder for this process until `stack` ends; returns a warning where another one holds it, else "".

    Raises:
        UserError: another process of this machine writes there, and this one is to train; or nobody can write there.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
        file = stack.enter_context(open(os.path.join(output_dir, ".lock"), "a+", encoding="utf-8"))
    except OSError as error:
        message = f"OUTPUT_DIR: cannot write to {output_dir} ({error.strerror}); set OUTPUT_DIR to a writable folder"
        raise UserError(message) from None
    host = socket.gethostname()
    try:
        # POSIX's and not flock: DataLoader workers, which may outlive a killed run for seconds, do not inherit it
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read().strip() or "another process"
        if training and holder.endswith(f" on {host}"):
            raise UserError(
                f"OUTPUT_DIR: {holder} is writing to {output_dir}. Wait until it has ended, or set another OUTPUT_DIR"
            ) from None
        # A network file system may keep the lock of a machine that has failed: that must not hinder a restart
        return f"OUTPUT_DIR: {holder} is writing to {output_dir}"
    except OSError:  # a file system without locks
        return ""
    with suppress(OSError):  # a full disk
        file.truncate(0)
        file.write(f"process {os.getpid()} on {host}")
        file.flush()
    return ""


def _has_results(output_dir: str) -> bool:
    """Whether the run in a folder has come to a checkpoint or a test."""
    tested = any(os.path.exists(os.path.join(output_dir, name)) for name in ("predictions.csv", "submission.csv"))
    return bool(tested or checkpoints.find_best(output_dir) or checkpoints.list_checkpoints(output_dir))


def _name_inside(path: str, output_dir: str, resume: bool = False) -> str:
    """The path below OUTPUT_DIR of a checkpoint, or of the one that a run's folder stands for (`find_checkpoint`); ""
    where it will not be moved."""
    if not os.path.exists(path):
        return ""
    path = os.path.realpath(checkpoints.find_checkpoint(path, resume))
    name = os.path.relpath(path, os.path.realpath(output_dir))
    return name if name.split(os.sep)[0] in FILES else ""


def is_config_of_a_run(path: str) -> bool:
    """Whether a file is a config that a run has written: that has all sections."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            keys = {line.partition(":")[0] for line in file}
    except OSError:
        return False
    return get_cfg().keys() <= keys


def _files(output_dir: str) -> list[str]:
    """Names of a run's files in a folder, without the user's own config."""
    found = [name for name in FILES if os.path.lexists(os.path.join(output_dir, name))]
    return [n for n in found if n != "config.yaml" or is_config_of_a_run(os.path.join(output_dir, n))]


def _move(output_dir: str, folder: str, config_files: Collection[str]) -> None:
    """Move a run's files into `folder`, and give it its final name; none are moved where one cannot be."""
    given = set(map(os.path.realpath, config_files))
    try:
        os.makedirs(folder, exist_ok=True)
        for name in _files(output_dir):
            source, target = os.path.join(output_dir, name), os.path.join(folder, name)
            if os.path.realpath(source) in given:
                shutil.copyfile(source, target)
            elif os.path.islink(source):  # a relative one would lead nowhere
                if not os.path.lexists(target):
                    os.symlink(os.path.realpath(source), target)
                os.remove(source)
            else:
                os.rename(source, target)
        flush_to_disk(output_dir)
        os.rename(folder, folder.removesuffix(_MOVING))
    except OSError as error:
        with suppress(OSError):
            for name in os.listdir(folder):
                os.rename(os.path.join(folder, name), os.path.join(output_dir, name))
            os.rmdir(folder)
        raise UserError(
            f"OUTPUT_DIR: cannot move the files of the previous run in {output_dir} ({error.filename}: "
            f"{error.strerror}); set another OUTPUT_DIR"
        ) from None
