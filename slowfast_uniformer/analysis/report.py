"""One self-contained HTML page on one run or several: curves, classes, mistakes, configs, cost.

The values of the page are computed here; report.html lays them out, words them and escapes them.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from slowfast_uniformer import paths
from slowfast_uniformer.analysis.report_classes import classes, mistakes
from slowfast_uniformer.analysis.report_figures import Points, chart, previews
from slowfast_uniformer.analysis.report_scores import TITLES, Comparison, compare, sentences
from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.engine.scores import best_column
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.class_balance import shown as shown_classes
from slowfast_uniformer.runs.files import Row
from slowfast_uniformer.runs.folder import RunFolder, epochs_done, is_number, read_run
from slowfast_uniformer.runs.folds import fold_runs
from slowfast_uniformer.runs.log import Phase

CURVES = (  # title, unit, key of the rows of metrics.jsonl
    ("Loss", "", "loss"),
    ("Top-1 accuracy", "%", "top1_acc"),
    ("Mean average precision", "%", "map"),
    ("Macro-F1", "%", "macro_f1"),
    ("Learning rate", "", "lr"),
    ("Gradient norm", "", "grad_norm"),
)
SPEED = (("Clips per second", "", "clips_per_second"), ("Waiting for data", "%", "data_wait_percent"))
KINDS = {"train_iter": "train", "val_epoch": "val", "test_final": "test"}
MISTAKES = 12  # shown of one run; half as many of each of several


def report(folders: Sequence[str], output: str | None = None, lines: list[str] | None = None) -> str:
    """Write the page on one run or several.

    Args:
        folders: OUTPUT_DIR of each run; or alone that of `uniformer train --folds`, for all of its folds. Folds have
            different test videos, so they are not compared.
        output: path of the page; None for report.html in the first folder.
        lines: a list to which sentences on how the runs differ are appended.

    Returns:
        The path of the page.

    Raises:
        UserError: where a folder is not a run's, or the page cannot be written.
    """
    of_folds = fold_runs(folders[0]) if len(folders) == 1 else []
    runs = [read_run(folder) for folder in of_folds or folders]
    path = output or os.path.join(folders[0], "report.html")
    try:
        with Phase("write the report"):  # a video of a slow disk takes seconds
            comparisons = [] if of_folds else compare(runs)
            paths.atomic_write(path, render(runs, comparisons))
    except OSError as error:
        raise UserError(f"--output: cannot write {path}: {error.strerror}") from None
    if lines is not None:
        lines += sentences(comparisons, short_names(folders))
    return path


def render(runs: Sequence[RunFolder], comparisons: Sequence[Comparison] = ()) -> str:
    """The page as HTML, with what `compare` found."""
    loader = jinja2.FileSystemLoader(os.path.dirname(__file__))
    undefined = jinja2.StrictUndefined
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=undefined)
    page.filters |= {"percent": percent, "duration": duration}
    page.tests["finite"] = is_number
    return page.get_template("report.html").render(
        names=short_names([run.path for run in runs]),
        runs=[overview(run) for run in runs],
        curves=charts(runs, CURVES),
        speed=charts(runs, SPEED),
        classes=[classes(run) for run in runs],
        balances=[shown_classes(run.class_balance) for run in runs],
        mistakes=[mistakes(run, MISTAKES if len(runs) == 1 else MISTAKES // 2) for run in runs],
        scores=TITLES,
        comparisons=comparisons,
        previews=[previews(run) for run in runs],
        differences=differences(runs),
        costs=costs(runs),
        written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
    )


def short_names(folders: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as it takes to tell them apart."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def overview(run: RunFolder) -> dict[str, Any]:
    """The rows of metrics.jsonl that the top of the page is made of; None where there is none."""
    tests, validations, training = run.of("test_final"), run.of("val_epoch"), run.of("train_iter", "train_epoch")
    multi_label = run.config.get("DATA.MULTI_LABEL", not any("top1_acc" in row for row in validations))
    measure = best_column(run.config.get("TRAIN.BEST_METRIC", "auto"), multi_label)
    valid = [row for row in validations if is_number(row.get(measure))]
    choose, patience = (min if measure == "loss" else max), run.config.get("TRAIN.PATIENCE", 0)
    stale = validations[-1].get("stale_validations", 0) if validations else 0
    return {
        "path": run.path,
        "config": run.config,
        "test": {key: value for key, value in tests[-1].items() if is_number(value)} if tests else None,
        "doubt": str(tests[-1].get("doubt", "")) if tests else "",
        "measure": measure,
        "best": choose(valid, key=lambda row: row[measure], default=None),
        "stopped_early": 0 < patience <= stale,
        "last": training[-1] if training else None,
        "losses": numbers(run.of("train_epoch", "train_iter"), "loss"),
    }


def charts(runs: Sequence[RunFolder], kinds: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """A chart of each of `kinds` (title, unit, key) that some run has values of."""
    found = []
    for title, unit, key in kinds:
        lines = [(n, kind, points(run, split, key)) for n, run in enumerate(runs) for split, kind in KINDS.items()]
        if any(values for _, kind, values in lines if kind != "test"):  # a test alone is no curve
            found.append(chart(title, unit, lines))
    return found


def points(run: RunFolder, split: str, key: str) -> Points:
    """A metric by epoch; a test is placed where training ended, and nowhere if there was none."""
    if split != "test_final":
        return list(zip(*run.curve(split, key), strict=True))
    last = max(filter(is_number, map(epochs_done, run.of("train_iter", "val_epoch"))), default=None)
    values = [row.get(key) for row in run.of(split)[-1:]]
    return [(last, value) for value in values if last is not None and is_number(value)]


def differences(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """Config keys in which runs differ, or one run from the defaults, and the values by run."""
    known = [run.config for run in runs if run.config]
    if len(runs) == len(known) == 1:
        known.append(dict(flatten(get_cfg())))
    keys = {key for config in known for key in config} - {"OUTPUT_DIR", "SHARD_ID"}  # these always differ
    unequal = [key for key in sorted(keys) if any(config.get(key) != known[0].get(key) for config in known)]
    return [(key, [shown(run.config.get(key)) if run.config else "?" for run in runs]) for key in unequal]


def costs(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """Speed, time, memory, machines and versions: a title, and the value for each run."""
    columns = [cost(run) for run in runs]
    titles = dict.fromkeys(title for column in columns for title in column)
    return [(title, [column.get(title, "–") for column in columns]) for title in titles]


def cost(run: RunFolder) -> dict[str, str]:
    """Facts on a run by title."""
    rows = run.of("train_iter")
    speeds, waits = numbers(rows, "clips_per_second"), numbers(rows, "data_wait_percent")
    memory, skipped, replaced = (numbers(rows, key) for key in ("memory_mb", "skipped_steps", "bad_videos"))
    seconds, device_seconds = train_time(run)
    facts = {
        "Clips per second, median": speeds and f"{median(speeds):,.1f}",
        "Waiting for data, median": waits and percent(median(waits)),
        "Time in training steps": seconds and duration(seconds),
        "Device hours in steps": seconds and f"{device_seconds / 3600:,.2f}",
        "Peak memory, MB": memory and f"{max(memory):,.0f}",
        "Steps skipped": skipped and f"{max(skipped):,.0f}",
        "Unreadable videos replaced": replaced and f"{sum(replaced):,.0f}",
    }
    if run.starts:
        start, restarts = run.starts[-1], len(run.starts) - 1
        more, commit = f", {restarts} more until {start.get('time', '?')}", str(start.get("commit") or "–")
        facts |= {
            "Device": f"{start.get('ranks', 1)} × {start.get('device', '?')}",
            "Hosts": ", ".join(map(str, start.get("hosts") or ["–"])),
            "Started": f"{run.starts[0].get('time', '?')}{more if restarts else ''}",
            "Commit": commit[:10] + "+" * commit.endswith("+"),  # "+" is a checkout with local changes
            "Command": " ".join(map(str, start.get("command") or [])),
            "python version": str(start.get("python")),
        }
        facts |= {f"{name} version": str(value) for name, value in (start.get("versions") or {}).items()}
    return {title: value for title, value in facts.items() if value}


def train_time(run: RunFolder) -> tuple[float, float]:
    """Seconds that the recorded training steps took (clips over clips per second), and seconds times devices.

    Zero where nothing says how many clips a step has.
    """
    rows, starts = run.of("train_iter"), run.starts
    steps = numbers(rows, "iters")
    if not run.config.get("TRAIN.ENABLE", True):  # the last start only tested: trust the first one instead
        starts, steps = starts[::-1], steps[::-1]
    trusted = starts[-1] if starts else {}
    clips_per_epoch = clips_per_step(run, trusted) * steps[-1] if steps else 0
    seconds, device_seconds, before = 0.0, 0.0, {}

    def start_of(row: Row) -> Row:
        """The row of starts.jsonl of the process that wrote a row of metrics.jsonl.

        Rows do not name it, but the steps of an epoch tell how many clips a step has. Of several starts that fit it is
        the last.
        """
        if not is_number(row.get("iters")):
            return trusted
        return min(starts[::-1], key=lambda s: abs(clips_per_step(run, s) * row["iters"] - clips_per_epoch), default={})

    for row in rows:
        number, done, speed = row.get("epoch"), row.get("iter"), row.get("clips_per_second")
        if is_number(done) and is_number(speed) and speed > 0:
            start = start_of(row)
            spent = (done - before.get(number, 0)) * clips_per_step(run, start) / speed
            seconds, device_seconds = seconds + spent, device_seconds + spent * start.get("ranks", 1)
            before[number] = done
    return seconds, device_seconds


def clips_per_step(run: RunFolder, start: Row) -> int:
    """Clips of an optimizer step on all ranks, of a start; 0 where neither it nor the config tells."""
    if is_number(start.get("clips_per_step")):
        return start["clips_per_step"]
    # Starts of older runs lack it. Under torchrun NUM_SHARDS is 1 on any number of machines.
    machines = max(len(start.get("hosts") or ()), run.config.get("NUM_SHARDS", 1))
    clips_per_video = run.config.get("AUG.NUM_SAMPLE", 1) if run.config.get("AUG.ENABLE") else 1
    return run.config.get("TRAIN.BATCH_SIZE", 0) * machines * clips_per_video


def numbers(rows: Sequence[Row], key: str) -> list[float]:
    """The finite values of a column."""
    return [row[key] for row in rows if is_number(row.get(key))]


def percent(value: Any) -> str:
    return f"{value:.2f} %" if is_number(value) else "?"


def duration(seconds: float) -> str:
    """Seconds as 5 s or 1:02:03."""
    return f"{seconds:.0f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def shown(value: Any) -> str:
    """A value of a config."""
    return "–" if value is None or value == "" else str(value)
