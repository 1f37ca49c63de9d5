"""One HTML page, needing nothing besides, of one run or several: curves, classes, mistakes, configs, cost.

What is shown is put together here as plain values; report.html lays it out and escapes it.
"""

import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from slowfast_uniformer.analysis.report_classes import classes, mistakes
from slowfast_uniformer.analysis.report_figures import Chart, Points, chart
from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.folder import Row, RunFolder, is_number, read_run

CURVES = (
    ("Loss", "", "loss"),
    ("Top-1 accuracy", "%", "top1_acc"),
    ("Mean average precision", "%", "map"),
    ("Learning rate", "", "lr"),
    ("Gradient norm", "", "grad_norm"),
)
SPEED = (("Clips per second", "", "clips_per_second"), ("Waiting for data", "%", "data_wait_percent"))
KINDS = {"train_iter": "train", "val_epoch": "val", "test_final": "test"}
SCORES = {"top1_acc": "top-1", "map": "mAP", "top5_acc": "top-5", "mean_class_acc": "mean of classes"}
MISTAKES = 12  # shown of one run; of several half as many each
WHERE = {"OUTPUT_DIR", "SHARD_ID"}  # differ between any two runs


def report(folders: Sequence[str], output: str | None = None) -> str:
    """Write the page on the runs in `folders` to `output`, which is report.html in the first of them unless
    given; returns its path. Raises UserError where a folder is no run's or the page cannot be written."""
    runs = [read_run(folder) for folder in folders]
    path = output or os.path.join(folders[0], "report.html")
    page = render(runs)
    try:
        Path(path + ".tmp").write_text(page, encoding="utf-8")
        os.replace(path + ".tmp", path)
    except OSError as error:
        Path(path + ".tmp").unlink(missing_ok=True)
        raise UserError(f"--output: cannot write {path}: {error.strerror}") from None
    return path


def render(runs: Sequence[RunFolder]) -> str:
    """The page, HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    names = short_names([run.path for run in runs])
    return environment.get_template("report.html").render(
        names=names,
        runs=[overview(run) for run in runs],
        curves=charts(runs, CURVES),
        speed=charts(runs, SPEED),
        classes=[classes(run) for run in runs],
        mistakes=[mistakes(run, MISTAKES if len(runs) == 1 else MISTAKES // 2) for run in runs],
        differences=differences(runs),
        costs=costs(runs),
        written=datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
    )


def short_names(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def overview(run: RunFolder) -> dict[str, Any]:
    """What stands at the top: the state of the run, its main figure, and others."""
    tests, validations = run.of("test_final"), run.of("val_epoch")
    scores = [(key, name) for key, name in SCORES.items() if tests and is_number(tests[-1].get(key))]
    figures = [(name, percent(tests[-1][key]), "test") for key, name in scores]
    measure = "map" if any("map" in row for row in validations) else "top1_acc"
    valid = [row for row in validations if is_number(row.get(measure))]
    if valid:
        best = max(valid, key=lambda row: row[measure])
        place = f"validation, epoch {best.get('epoch')}"
        figures.append((f"best {SCORES[measure]}", percent(best[measure]), place))
    if tests:
        count, coverage = tests[-1].get("num_videos", "?"), tests[-1].get("coverage", 100.0)
        answered = "all answered" if coverage == 100.0 else f"{percent(coverage)} answered"
        figures.append(("test videos", f"{count:,}" if is_number(count) else "?", answered))
    model = str(run.config.get("MODEL.MODEL_NAME", "No config.yaml"))
    if "DATA.NUM_FRAMES" in run.config:
        model += f", {run.config['DATA.NUM_FRAMES']} frames of {run.config.get('DATA.TRAIN_CROP_SIZE')} px"
    losses = [row["loss"] for row in run.of("train_epoch", "train_iter") if is_number(row.get("loss"))]
    if losses:
        figures.append(("loss", f"{losses[-1]:.3g}", "training, last"))
    return {
        "state": state(run),
        "figures": figures,
        "model": model,
        "recipe": run.config.get("RECIPE", ""),
        "path": run.path,
        "unlabelled": bool(tests) and not scores,
    }


def state(run: RunFolder) -> str:
    """How far a run has come, in words."""
    training = run.of("train_iter", "train_epoch")
    if not training:
        return "test only" if run.of("test_final") else "no training yet"
    last, epochs = training[-1], run.config.get("SOLVER.MAX_EPOCH")
    done = last.get("epoch", 0) - (last.get("iter") != last.get("iters"))
    if done != epochs:
        left = last.get("eta_seconds")
        eta = f", {duration(left)} left" if is_number(left) else ""
        return f"epoch {last.get('epoch')} of {epochs or '?'}{eta}"
    return f"{done} epochs" + (", tested" if run.of("test_final") else ", not tested")


def charts(runs: Sequence[RunFolder], kinds: Sequence[tuple[str, str, str]]) -> list[Chart]:
    """A chart of each of `kinds` (title, unit, key of rows) of which some run has figures."""
    all_charts = (
        chart(
            title,
            unit,
            [(n, kind, points(run, split, key)) for n, run in enumerate(runs) for split, kind in KINDS.items()],
        )
        for title, unit, key in kinds
    )
    return [one for one in all_charts if one]


def points(run: RunFolder, split: str, key: str) -> Points:
    """A figure by epoch; a test stands where training ended, and nowhere if there was none."""
    places = [at for row in run.of("train_iter", "val_epoch") if (at := epoch(row)) is not None]
    end = max(places, default=None)
    found = ((end if split == "test_final" else epoch(row), row.get(key)) for row in run.of(split))
    found = [(at, value) for at, value in found if at is not None and is_number(value)]
    return found[-1:] if split == "test_final" else found


def epoch(row: Row) -> float | None:
    """Where a row stands, in epochs done."""
    at, done, steps = (row.get(key) for key in ("epoch", "iter", "iters"))
    if not is_number(at):
        return None
    return at - 1 + done / steps if is_number(done) and is_number(steps) and steps else float(at)


def differences(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """Keys in which runs differ, or of one run those that are not the default, and their values by run."""
    known = [run.config for run in runs if run.config]
    if len(runs) == len(known) == 1:
        known.append(dict(flatten(get_cfg())))
    keys = dict.fromkeys(key for config in known for key in config)
    values = {key: [config.get(key) for config in known] for key in keys if key not in WHERE}
    unequal = sorted(key for key, row in values.items() if any(value != row[0] for value in row))
    return [(key, [shown(run.config.get(key)) if run.config else "?" for run in runs]) for key in unequal]


def costs(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """Speed, time, memory, machines and versions: a title, and what holds for each run."""
    table = [cost(run) for run in runs]
    titles = dict.fromkeys(title for column in table for title in column)
    return [(title, [column.get(title, "–") for column in table]) for title in titles]


def cost(run: RunFolder) -> dict[str, str]:
    """Facts on a run by title. The time is that of the steps themselves: clips over clips per second."""
    rows, start = run.of("train_iter"), run.starts[-1] if run.starts else {}
    speeds = [row["clips_per_second"] for row in rows if is_number(row.get("clips_per_second"))]
    seconds, ranks = train_seconds(run), start.get("ranks", 1)
    facts: dict[str, str] = {}
    if speeds:
        waits = [row["data_wait_percent"] for row in rows if is_number(row.get("data_wait_percent"))]
        facts["Clips per second, median"] = f"{median(speeds):,.1f}"
        facts["Waiting for data, median"] = percent(median(waits)) if waits else "–"
    if seconds:
        facts["Time in training steps"] = duration(seconds)
        facts["Device hours in steps"] = f"{seconds * ranks / 3600:,.2f}"
    for title, key in (("Peak memory, MB", "memory_mb"), ("Steps skipped", "skipped_steps")):
        values = [row[key] for row in rows if is_number(row.get(key))]
        facts |= {title: f"{max(values):,.0f}"} if values else {}
    replaced = [row["bad_videos"] for row in rows if is_number(row.get("bad_videos"))]
    facts |= {"Unreadable videos replaced": f"{sum(replaced):,.0f}"} if replaced else {}
    if not start:
        return facts
    hosts, versions = start.get("hosts") or [], start.get("versions") or {}
    facts["Device"] = f"{ranks} × {start.get('device', '?')}"
    facts["Hosts"] = ", ".join(map(str, hosts)) or "–"
    facts["Started"] = f"{run.starts[0].get('time', '?')}" + (
        f", {len(run.starts) - 1} more until {start.get('time', '?')}" if len(run.starts) > 1 else ""
    )
    facts["Commit"] = short_commit(str(start.get("commit") or "–"))
    facts["Command"] = " ".join(map(str, start.get("command") or []))
    versions = {"python": start.get("python"), **versions}
    return facts | {f"{name} version": str(value) for name, value in versions.items()}


def train_seconds(run: RunFolder) -> float:
    """How long the steps took that are recorded, 0 where the config does not tell what a step is."""
    keys = ("TRAIN.BATCH_SIZE", "NUM_SHARDS", "AUG.NUM_SAMPLE")
    batch = [run.config.get(key) for key in keys]
    if not all(map(is_number, batch)):
        return 0.0
    seconds, before = 0.0, {}
    for row in run.of("train_iter"):
        at, done, speed = row.get("epoch"), row.get("iter"), row.get("clips_per_second")
        if is_number(done) and is_number(speed) and speed > 0:
            seconds += (done - before.get(at, 0)) * batch[0] * batch[1] * batch[2] / speed
            before[at] = done
    return seconds


def short_commit(text: str) -> str:
    """Its first digits, and the "+" of a checkout that was changed."""
    return text[:10] + "+" * text.endswith("+")


def percent(value: Any) -> str:
    return f"{value:.2f} %" if is_number(value) else "?"


def duration(seconds: float) -> str:
    """Seconds for people."""
    text = str(timedelta(seconds=round(seconds)))
    return f"{seconds:.0f} s" if seconds < 100 else text


def shown(value: Any) -> str:
    """A config's value."""
    return "–" if value is None or value == "" else str(value)
