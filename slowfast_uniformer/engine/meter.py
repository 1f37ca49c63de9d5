"""The figures of an epoch's steps, on their way from the steps to the log."""

import math
import resource
import time
from typing import TYPE_CHECKING, Any

import torch

from slowfast_uniformer.distributed import collectives, topology
from slowfast_uniformer.runs.recorder import Recorder

if TYPE_CHECKING:
    from slowfast_uniformer.engine.state import RunState
    from slowfast_uniformer.engine.step import StepResult


class Meter:
    """Figures of one epoch's steps: since the last line, and since the epoch began."""

    def __init__(self, run: "RunState", steps: int, log: Recorder):
        self.run, self.steps, self.log = run, steps, log
        epoch, window = run.sums or (None, None)  # of the part of the epoch before a run was continued
        self.epoch, self.window = Sums(epoch), Sums(window)

    def add(self, batch: dict, step: "StepResult", waited: float) -> None:
        for sums in (self.epoch, self.window):
            sums.add(batch, step, waited)

    def write(self, done: int, lr: float) -> None:
        """A `train_iter` row, and the `train_epoch` row when the epoch is done."""
        self._write("train_iter", self.window, lr, done)
        self.window = Sums()
        if done == self.steps:
            self._write("train_epoch", self.epoch, lr, done)

    def state(self) -> tuple[list[float], list[float]]:
        """What `Run.sums` has to be for the epoch to be continued here."""
        return self.epoch.state(), self.window.state()

    def _write(self, split: str, sums: "Sums", lr: float, done: int) -> None:
        run = self.run
        left = (run.cfg.SOLVER.MAX_EPOCH - run.epoch) * self.steps - done
        row = {"split": split, "epoch": run.epoch + 1, "iter": done, "iters": self.steps, "lr": lr}
        row.update(sums.figures(run.device))
        row.update(skipped_steps=run.skipped_steps, memory_mb=memory_mb(run.device))
        self.log.write(run.step, {**row, "eta_seconds": round(left * self.epoch.seconds() / done)})


class Sums:
    """Sums over steps on this rank; `figures` puts all ranks together.

    What the steps' device computes stays there until it is asked for: reading it would wait for the step.
    """

    def __init__(self, state: list[float] | None = None) -> None:
        """Begin anew, or where another's `state` was."""
        *values, hard_labels, seconds = state or [0.0] * 9
        self.start = time.perf_counter() - seconds
        self.values = torch.tensor(values, dtype=torch.float64)
        self.unread: torch.Tensor | float = 0.0  # loss, norm and hits that `values` lack
        self.hard_labels = bool(hard_labels)

    def read(self) -> torch.Tensor:
        """Updates, loss, norm, clips, hits, errors, seconds waited."""
        if isinstance(self.unread, torch.Tensor):
            self.values[[1, 2, 4]] += self.unread.cpu()
            self.unread = 0.0
        return self.values

    def state(self) -> list[float]:
        return [*self.read().tolist(), float(self.hard_labels), self.seconds()]

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def add(self, batch: dict, step: "StepResult", waited: float) -> None:
        self.hard_labels = step.correct is not None
        none = torch.zeros_like(step.loss)
        loss, norm = (step.loss, step.norm) if step.updated else (none, none)
        hits = step.correct if self.hard_labels else none
        self.unread = self.unread + torch.stack((loss, norm, hits)).double()
        row = [step.updated, 0.0, 0.0, len(batch["clips"]), 0.0, len(batch["errors"]), waited]
        self.values += torch.tensor(row, dtype=torch.float64)

    def figures(self, device: torch.device) -> dict[str, float]:
        """Mean loss and gradient norm of updates, accuracy, clips per second, waiting; collective."""
        seconds, world = self.seconds(), topology.world_size()
        values = collectives.all_reduce_mean(self.read().to(device)).tolist()
        updates, loss, norm, clips, hits, errors, waited = values
        return {
            "loss": loss / updates if updates else math.nan,
            **({"top1_acc": 100 * hits / clips} if self.hard_labels else {}),
            "grad_norm": norm / updates if updates else math.nan,
            "clips_per_second": clips * world / seconds,
            "data_wait_percent": 100 * waited / seconds,
            "bad_videos": round(errors * world),
        }


def reshard(states: list[Any], world: int, rank: int) -> Any:
    """Of the `Meter.state` of all ranks of an earlier run, what this one goes on from. With as many ranks
    each takes its own; otherwise rank 0 takes the sums of all, which are what counts."""
    if len(states) == world:
        return states[rank]
    summed = []
    for columns in zip(*states, strict=True):
        *values, hard_labels, seconds = (sum(column) for column in zip(*columns, strict=True))
        values = values if rank == 0 else [0.0] * len(values)
        summed.append([*values, float(hard_labels > 0), seconds / len(states)])
    return tuple(summed)


def memory_mb(device: torch.device) -> float:
    """Peak memory so far: of the GPU's tensors, or on the CPU of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
