"""Figures passed on to Weights & Biases or MLflow, by a process beside the run: whatever it waits for or runs
into, the run neither ends nor waits, but for `PATIENCE` seconds when it closes.

Servers, projects and offline modes are chosen by the trackers' own variables (WANDB_*, MLFLOW_*). The
tracker's run is kept in OUTPUT_DIR/tracker.json, so that a continued run goes on in it; what the tracker says
is in tracker.log.
"""

import importlib.util
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

logger = logging.getLogger(__name__)
TRACKERS = ("wandb", "mlflow")
PROJECT = "slowfast_uniformer"  # unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says otherwise
PATIENCE = 30.0  # seconds that a tracker is given to take what is left
Row = dict[str, Any]


def is_missing(kind: str) -> bool:
    """Whether the tracker's package is not installed."""
    return bool(kind) and importlib.util.find_spec(kind) is None


class Tracker:
    """The run's end of the line to a tracker of this `kind`; none if "". The process begins with the first
    row, and anew with the first after `close`. When it fails, that is said once and nothing more is sent."""

    def __init__(self, kind: str, output_dir: str):
        self.kind, self.output_dir = kind, output_dir
        self._process: subprocess.Popen | None = None

    def write(self, row: Row) -> None:
        """Send a JSON object: `config`, keys with values, or `step` with `figures`."""
        if not self.kind:
            return
        line = json.dumps(row).encode() + b"\n"
        try:
            if self._process is None:
                self._process = self._start()
            if os.write(self._process.stdin.fileno(), line) < len(line):
                raise BlockingIOError("it does not keep up")
        except OSError as error:
            self._fail(error.strerror or str(error))

    def close(self) -> None:
        """Have the tracker take what is left, and end it."""
        if self._process is None:
            return
        with suppress(OSError):  # said in so many words, for forked loading processes hold the pipe as well
            os.write(self._process.stdin.fileno(), b'{"end": true}\n')
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._fail(f"it has not taken everything within {PATIENCE:g} s")
            return
        if status:
            self._fail("it has ended")
        self._process = None

    def _start(self) -> subprocess.Popen:
        os.makedirs(self.output_dir, exist_ok=True)
        with open(os.path.join(self.output_dir, "tracker.log"), "ab") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, self.kind, self.output_dir],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                bufsize=0,
                start_new_session=True,
            )
        os.set_blocking(process.stdin.fileno(), False)
        return process

    def _fail(self, cause: str) -> None:
        path = os.path.join(self.output_dir, "tracker.log")
        if self._process and self._process.poll() is not None:
            with suppress(OSError, IndexError), open(path, encoding="utf-8", errors="replace") as file:
                cause = [line for line in file.read().splitlines() if line.strip()][-1]
        logger.warning(
            "TRACKER: %s takes no more figures (%s; see %s); all are in metrics.jsonl", self.kind, cause, path
        )
        if self._process:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.kind, self._process = "", None


class Wandb:
    """A run of Weights & Biases; `kept` is the id of one to go on in."""

    def __init__(self, output_dir: str, name: str, kept: str | None, config: Row):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            dir=output_dir,
            config=config,
            id=kept,
            resume="allow",
            settings=wandb.Settings(console="off"),
        )
        # by a figure of ours, for its own count of steps never goes back, as a continued run does
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        self.id = self.run.id

    def write(self, step: int, figures: Row) -> None:
        self.run.log({**figures, "step": step})

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow; `kept` is the id of one to go on in."""

    def __init__(self, output_dir: str, name: str, kept: str | None, config: Row):
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        if kept:
            self.client.update_run(kept, status="RUNNING")
            self.id = kept
            return
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(project)
        at = experiment.experiment_id if experiment else self.client.create_experiment(project)
        self.id = self.client.create_run(at, run_name=name).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in config.items()]
        for start in range(0, len(params), 100):  # the most it takes at once
            self.client.log_batch(self.id, params=params[start : start + 100])

    def write(self, step: int, figures: Row) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(tag, value, now, step) for tag, value in figures.items()])

    def close(self) -> None:
        self.client.set_terminated(self.id)


def follow(kind: str, output_dir: str, rows: Iterator[Row]) -> None:
    """Pass rows on to the tracker, in its run that tracker.json names or in a new one."""
    path = os.path.join(output_dir, "tracker.json")
    ids: dict[str, str] = {}
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            ids = json.load(file)
    first = next(rows)  # the config, unless a test goes on in the run of a training
    name = os.path.basename(os.path.abspath(output_dir))
    make = {"wandb": Wandb, "mlflow": MLflow}[kind]
    tracker = make(output_dir, name, ids.get(kind), first.get("config", {}))
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump({**ids, kind: tracker.id}, file)
    os.replace(path + ".tmp", path)
    for row in chain([first], rows):
        if "figures" in row:
            tracker.write(row["step"], row["figures"])
    tracker.close()


def _received(pipe: Any) -> Iterator[Row]:
    """Rows up to the end, read as they come so that the run's side never fills."""
    rows: queue.SimpleQueue = queue.SimpleQueue()

    def read() -> None:
        for line in pipe:
            rows.put(json.loads(line))
        rows.put({"end": True})

    threading.Thread(target=read, daemon=True).start()
    return iter(rows.get, {"end": True})


def main() -> None:
    """The tracker's process. It ends with the run, by its word or when the run is no more, and by no signal
    that is meant for the run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    kind, output_dir = sys.argv[1:]
    try:
        follow(kind, output_dir, _received(sys.stdin))
    except BaseException as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(1)  # trackers may wait for their servers where Python ends


if __name__ == "__main__":
    main()
