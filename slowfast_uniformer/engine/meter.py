"""Running metrics of an epoch's steps, between the steps and the log."""

import math
import resource
import time
from typing import Any

import torch

from slowfast_uniformer.distributed import collectives, topology
from slowfast_uniformer.engine.step import StepResult


class RunningSums:
    """Sums of metrics over steps on this rank; `metrics` reduces them over all ranks.

    What a step computes on the device is added there, and copied when it is asked for: reading it after each step
    would synchronize with the device.

    Args:
        state: of another one's `state`, to go on from; None starts at zero.
    """

    def __init__(self, state: list[float] | None = None) -> None:
        *values, hard_labels, seconds = state or [0.0] * 9
        self.start = time.perf_counter() - seconds
        self.values = torch.tensor(values, dtype=torch.float64)
        self.on_device: torch.Tensor | float = 0.0  # updates, loss, norm and correct clips: not yet in `values`
        self.hard_labels = bool(hard_labels)

    def add(self, batch: dict[str, Any], step: StepResult, waited: float) -> None:
        """Add a step over `batch`, for which it had `waited` seconds."""
        self.hard_labels = step.correct is not None
        of_update = torch.stack((torch.ones_like(step.loss), step.loss, step.norm)).double()
        correct = step.correct if self.hard_labels else torch.zeros_like(step.loss)
        added = torch.cat((torch.where(step.updated, of_update, 0.0), correct.double().view(1)))
        self.on_device = self.on_device + added
        row = [0.0, 0.0, 0.0, len(batch["clips"]), 0.0, len(batch["errors"]), waited]
        self.values += torch.tensor(row, dtype=torch.float64)

    def read(self) -> torch.Tensor:
        """Updates, loss, norm, clips, correct clips, unreadable videos, seconds waited; float64 on the CPU."""
        if isinstance(self.on_device, torch.Tensor):
            self.values[[0, 1, 2, 4]] += self.on_device.cpu()
            self.on_device = 0.0
        return self.values

    def state(self) -> list[float]:
        """`read`, whether labels were hard, and seconds: what a checkpoint holds of it."""
        return [*self.read().tolist(), float(self.hard_labels), self.seconds()]

    def seconds(self) -> float:
        """Wall time since the first step, without the time between interruption and resumption."""
        return time.perf_counter() - self.start

    def metrics(self, device: torch.device) -> dict[str, float]:
        """Mean loss and gradient norm of updates, accuracy, clips per second, waiting; of all ranks (collective)."""
        values, world = self.read(), topology.world_size()  # waits for the last step, whose time counts
        seconds = self.seconds()
        values = collectives.all_reduce_mean(values.to(device)).tolist()
        updates, loss, norm, clips, correct, errors, waited = values
        return {
            "loss": loss / updates if updates else math.nan,
            **({"top1_acc": 100 * correct / clips} if self.hard_labels else {}),
            "grad_norm": norm / updates if updates else math.nan,
            "clips_per_second": clips * world / seconds,
            "data_wait_percent": 100 * waited / seconds,
            "bad_videos": round(errors * world),
        }


class Meter:
    """Metrics of this rank's steps: since the last log line (`window`) and since the epoch began (`epoch`)."""

    def __init__(self, state: tuple[list[float], list[float]] | None = None):
        epoch, window = state or (None, None)
        self.epoch, self.window = RunningSums(epoch), RunningSums(window)

    def add(self, batch: dict[str, Any], step: StepResult, waited: float) -> None:
        self.epoch.add(batch, step, waited)
        self.window.add(batch, step, waited)

    def state(self) -> tuple[list[float], list[float]]:
        return self.epoch.state(), self.window.state()


def reshard(states: list[Any], world: int, rank: int) -> Any:
    """The `Meter.state` with which rank `rank` of `world` continues, from the states of all ranks of a checkpoint.

    With the same number of ranks each takes its own. Otherwise rank 0 takes the sums of all and the others zeros, for
    only sums over ranks are reported.
    """
    if len(states) == world:
        return states[rank]
    summed = []
    for columns in zip(*states, strict=True):
        *values, hard_labels, seconds = (sum(column) for column in zip(*columns, strict=True))
        values = values if rank == 0 else [0.0] * len(values)
        summed.append([*values, float(hard_labels > 0), seconds / len(states)])
    return tuple(summed)


def memory_mb(device: torch.device) -> float:
    """Peak memory so far in MiB: of the tensors on a GPU, or on the CPU of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
