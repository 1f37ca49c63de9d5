"""What a run shows in TensorBoard: names and order of its cards, its texts, and the folder that gives it its name.

TensorBoard sorts cards by their tags, in sections by what is before the first slash, and opens the first two sections.
So they are, in this order, `train` (the loss comes first), `val`, `visualization` (pictures) and `watch` (what tells
whether the run is well). What has one value only, such as a test's accuracy, is no curve: it is in a table of the Text
tab.
"""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from glob import glob
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.config.load import difference
from slowfast_uniformer.runs.files import Row

FOLDER = "tensorboard"  # in OUTPUT_DIR
EVENTS = "events.out.tfevents.*"
PICTURES = "visualization"  # the section of pictures
BOUNDS = ("_low", "_high")  # endings of the columns with a figure's 95 % interval
_SECTIONS = {"train_iter": "train", "train_epoch": "train", "val_epoch": "val", "test_final": "test"}
_WATCHED = {"lr", "grad_norm", "clips_per_second", "data_wait_percent", "memory_mb", "skipped_steps", "bad_videos"}
_WATCHED_IN_VAL = {"coverage", "temperature", "unreadable_videos"}
_NOT_DRAWN = {"step", "split", "epoch", "iter", "iters", "eta_seconds", "num_videos", "num_labelled", "num_groups"}
_NOT_DRAWN |= {"stale_validations", "doubt"}
# Columns of the table of runs, besides keys of these sections that are not at their defaults
_HPARAMS = (
    "MODEL.MODEL_NAME DATA.NUM_FRAMES DATA.TRAIN_CROP_SIZE TRAIN.BATCH_SIZE SOLVER.OPTIMIZING_METHOD "
    "SOLVER.BASE_LR SOLVER.WEIGHT_DECAY SOLVER.MAX_EPOCH SOLVER.WARMUP_EPOCHS MIXUP.ENABLE AUG.ENABLE "
    "RNG_SEED"
).split()
_HPARAM_SECTIONS = ("MODEL", "UNIFORMER", "UNIFORMERV2", "SOLVER", "AUG", "MIXUP", "BN")
_TITLES = {  # of columns of metrics.jsonl, in the order of the tables; other columns follow under their own names
    "top1_acc": "top-1 accuracy, %",
    "top5_acc": "top-5 accuracy, %",
    "mean_class_acc": "mean per-class accuracy, %",
    "macro_f1": "macro-F1, %",
    "map": "mean average precision, %",
    "loss": "loss",
    "ece": "expected calibration error, %",
    "temperature": "temperature",
    "coverage": "coverage (videos with a prediction), %",
    "num_videos": "videos",
    "num_labelled": "labelled videos",
    "num_groups": "groups of videos",
    "unreadable_videos": "unreadable videos",
}


def scalars(row: Row) -> dict[str, Any]:
    """The numbers of a row of metrics.jsonl by tag; those of the test are for trackers, and no curves."""
    split, section = row["split"], _SECTIONS[row["split"]]
    left_out = _NOT_DRAWN | (_WATCHED if split == "train_epoch" else set())
    found = {}
    for key, value in row.items():
        if key in left_out or key.endswith(BOUNDS) or isinstance(value, str):
            continue
        if split == "val_epoch" and key in _WATCHED_IN_VAL:
            tag = f"watch/val_{key}"
        elif key in _WATCHED:
            tag = f"watch/{key}"
        else:
            tag = f"{section}/{key}{'_epoch' if split == 'train_epoch' else ''}"
        found[tag] = value
    return found


# ------------------------------------------------------------------------------------------------ the run's folder
def run_folder(output_dir: str) -> str:
    """The folder of a run's events. TensorBoard calls a run as its folder, so it has OUTPUT_DIR's name."""
    return os.path.join(output_dir, FOLDER, os.path.basename(os.path.abspath(output_dir)) or "run")


def continued_folder(output_dir: str) -> str:
    """`run_folder`, with the events that the run has written so far: also if OUTPUT_DIR had another name then, and
    those of earlier versions, directly in OUTPUT_DIR/tensorboard. They stay where they cannot be moved."""
    folder = run_folder(output_dir)
    parent, name = os.path.split(folder)
    others = sorted(glob(os.path.join("*", EVENTS), root_dir=parent), key=os.path.basename)  # begins with the time
    with suppress(OSError):
        if glob(EVENTS, root_dir=parent):
            os.makedirs(folder, exist_ok=True)
            for entry in set(os.listdir(parent)) - {name, *map(os.path.dirname, others)}:
                target = os.path.join(folder, entry)
                if not os.path.exists(target):
                    os.rename(os.path.join(parent, entry), target)
        elif others and not os.path.isdir(folder):  # the oldest one: others may be pictures of `uniformer explain`
            os.rename(os.path.join(parent, os.path.dirname(others[0])), folder)
    return folder


# ------------------------------------------------------------------------------------------------ texts and tables
def hparams_row(cfg: CfgNode) -> dict[str, int | float | str]:
    """The run's row in the HParams tab. TensorBoard adds the last values of all curves."""
    values = dict(flatten(cfg))
    other = {key: value for key, value in difference(cfg).items() if key.split(".")[0] in _HPARAM_SECTIONS}
    shown = {key: values[key] for key in _HPARAMS} | other
    return {key: value if type(value) in (int, float) else str(value) for key, value in shown.items()}


def results_text(row: Row) -> str:
    """A Markdown table of a `test_final` row, with 95 % intervals, and below it what is doubtful of it."""
    cells = []
    for key in _ordered(row):
        bounds = [row.get(f"{key}{end}") for end in BOUNDS]
        interval = "" if None in bounds else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
        cells.append((_TITLES.get(key, key), _shown(key, row[key]), interval))
    table = _table(("test", "value", "95 % interval"), cells)
    return f"{table}\n\nTo check: {row['doubt']}" if "doubt" in row else table


def validation_text(rows: Sequence[Row], column: str) -> str:
    """A Markdown table of the best and the last validation.

    Args:
        rows: of metrics.jsonl, split `val_epoch`; one or more.
        column: by which the best is chosen; of `loss` the smallest is the best.
    """
    sign = -1 if column == "loss" else 1
    last = rows[-1]
    best = max((row for row in rows if row.get(column) is not None), key=lambda row: sign * row[column], default=last)
    head = ("validation", f"best by {column}: epoch {best['epoch']}", f"last: epoch {last['epoch']}")
    return _table(
        head, [(_TITLES.get(key, key), _shown(key, best.get(key)), _shown(key, last[key])) for key in _ordered(last)]
    )


def start_text(start: Row) -> str:
    """What a run was started with, from a row of starts.jsonl, as Markdown."""
    machines = f"{start['ranks']} on {start['machines']} ({', '.join(start['hosts'])})"
    versions = ", ".join(f"{name} {version}" for name, version in start["versions"].items())
    cells = [
        ("commit", start["commit"] or "not in a checkout"),
        ("device", start["device"]),
        ("processes on machines", machines),
        ("global batch", f"{start['videos_per_step']} videos, {start['clips_per_step']} clips"),
        ("learning rate", f"{start['learning_rate']:g}"),
        ("Python", start["python"]),
        ("packages", versions),
    ]
    return f"{code(_command(start['command']))}\n\n{_table(('started', start['time']), cells)}"


def _command(words: Sequence[str], width: int = 100) -> str:
    """A command for a shell, in lines of about `width` letters."""
    lines = [""]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) > width:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


def code(text: str, language: str = "") -> str:
    """A Markdown block of text that is shown as it is."""
    return f"```{language}\n{text.rstrip()}\n```"


def _ordered(row: Row) -> list[str]:
    """The columns that are shown in a table, the known ones first."""
    hidden = _NOT_DRAWN - _TITLES.keys()
    shown = [key for key in row if key not in hidden and not key.endswith(BOUNDS)]
    return sorted(shown, key=lambda key: list(_TITLES).index(key) if key in _TITLES else len(_TITLES))


def _shown(key: str, value: Any) -> str:
    """A value of a column; shares in per cent have two decimals."""
    if value is None:
        return "not finite"
    if isinstance(value, str):
        return f"`` {value} ``"  # paths: letters that mean something in Markdown
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if _TITLES.get(key, "").endswith("%") else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A cell with its `|` escaped; in code they end no cell, and a backslash would be shown."""
    return text if text.startswith("``") else text.replace("|", r"\|")
