"""Sending metrics to Weights & Biases or MLflow.

A separate process talks to the tracker: an error or a hanging server neither ends nor delays the run, except for
`SHUTDOWN_TIMEOUT` seconds at its end. Servers, projects and offline modes are set by the trackers' own variables
(WANDB_*, MLFLOW_*). The id of the tracker's run is kept in OUTPUT_DIR/tracker.json, so that a resumed run continues
it; what the tracker prints is in tracker.log.
"""

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

from slowfast_uniformer.paths import atomic_write
from slowfast_uniformer.runs.files import Row

logger = logging.getLogger(__name__)
PROJECT = "slowfast_uniformer"  # unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says otherwise
SHUTDOWN_TIMEOUT = 30.0  # seconds that a tracker has at the end to take what is left
failed: set[str] = set()  # OUTPUT_DIRs whose tracker has failed: a test does not try again what the training gave up


class Tracker:
    """The run's side: a pipe to the tracker's process.

    The process starts with the first row, and again with the first row after `close`. If it fails, there is one warning
    and nothing more is sent.

    Args:
        kind: "wandb", "mlflow", or "" for no tracker.
        output_dir: the run's folder.
    """

    def __init__(self, kind: str, output_dir: str):
        self.kind, self.output_dir = kind, output_dir
        self.log = os.path.join(output_dir, "tracker.log")
        self._process: subprocess.Popen | None = None

    def write(self, row: Row) -> None:
        """Send a JSON object: `config` (values by key), or `step` and `figures` (numbers by tag)."""
        if not self.kind or self.output_dir in failed:
            return
        line = json.dumps(row).encode() + b"\n"
        try:
            if self._process is None:
                os.makedirs(self.output_dir, exist_ok=True)
                command = [sys.executable, "-m", __name__, self.kind, self.output_dir]
                with open(self.log, "ab") as log:
                    self._process = subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=log, stderr=log, bufsize=0, start_new_session=True
                    )
                os.set_blocking(self._process.stdin.fileno(), False)
            if os.write(self._process.stdin.fileno(), line) < len(line):
                raise BlockingIOError("it does not keep up")
        except OSError as error:
            self._fail(error.strerror or str(error))

    def close(self) -> None:
        """Wait until the tracker has taken what is left, and end its process."""
        if self._process is None:
            return
        with suppress(OSError):  # a message, since forked DataLoader workers hold the pipe open as well
            os.write(self._process.stdin.fileno(), b'{"end": true}\n')
        try:
            if self._process.wait(SHUTDOWN_TIMEOUT):
                self._fail("it has ended")
        except subprocess.TimeoutExpired:
            self._fail(f"it has not taken everything within {SHUTDOWN_TIMEOUT:g} s")
        self._process = None

    def _fail(self, cause: str) -> None:
        if self._process and self._process.poll() is not None:
            with suppress(OSError, IndexError), open(self.log, encoding="utf-8", errors="replace") as file:
                cause = [line for line in file.read().splitlines() if line.strip()][-1]
        logger.warning(
            "TRACKER: no more metrics are sent to %s (%s; its log is %s); metrics.jsonl has them all",
            self.kind,
            cause,
            self.log,
        )
        if self._process:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        failed.add(self.output_dir)
        self._process = None


# ------------------------------------------------------------------------------------- the tracker's process
class Wandb:
    """A run of Weights & Biases: a new one, or that with the id `resume`."""

    def __init__(self, output_dir: str, name: str, resume: str | None, config: Row):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            dir=output_dir,
            config=config,
            id=resume,
            resume="allow",
            settings=wandb.Settings(console="off"),
        )
        # plotted over a metric of ours: wandb's own step count never goes back, as that of a resumed run does
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        self.id = self.run.id

    def write(self, step: int, metrics: Row) -> None:
        self.run.log({**metrics, "step": step})

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow: a new one, or that with the id `resume`."""

    def __init__(self, output_dir: str, name: str, resume: str | None, config: Row):
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        if resume:
            self.client.update_run(resume, status="RUNNING")
            self.id = resume
            return
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(project)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(project)
        self.id = self.client.create_run(experiment_id, run_name=name).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in config.items()]
        for start in range(0, len(params), 100):  # the most that one request takes
            self.client.log_batch(self.id, params=params[start : start + 100])

    def write(self, step: int, metrics: Row) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(tag, value, now, step) for tag, value in metrics.items()])

    def close(self) -> None:
        self.client.set_terminated(self.id)


def follow(kind: str, output_dir: str, rows: Iterator[Row]) -> None:
    """Send rows to the tracker, in the run that tracker.json names or in a new one."""
    path = os.path.join(output_dir, "tracker.json")
    ids: dict[str, str] = {}
    with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        ids = json.load(file)
    first = next(rows)  # the config, except for a test that continues the tracker's run of a training
    name = os.path.basename(os.path.abspath(output_dir))
    tracker = {"wandb": Wandb, "mlflow": MLflow}[kind](output_dir, name, ids.get(kind), first.get("config", {}))
    atomic_write(path, json.dumps({**ids, kind: tracker.id}))
    for row in chain([first], rows):
        if "figures" in row:
            tracker.write(row["step"], row["figures"])
    tracker.close()


def _received(pipe: Any) -> Iterator[Row]:
    """Rows up to the end, read as they come so that the pipe never fills while the tracker waits for its server."""
    rows: queue.SimpleQueue = queue.SimpleQueue()

    def read() -> None:
        for line in pipe:
            rows.put(json.loads(line))
        rows.put({"end": True})

    threading.Thread(target=read, daemon=True).start()
    return iter(rows.get, {"end": True})


def main() -> None:
    """The tracker's process. It ends when the run says so or has ended, and ignores signals that are for the run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    kind, output_dir = sys.argv[1:]
    try:
        follow(kind, output_dir, _received(sys.stdin))
    except BaseException as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(1)  # trackers may wait for their servers when Python exits


if __name__ == "__main__":
    main()
