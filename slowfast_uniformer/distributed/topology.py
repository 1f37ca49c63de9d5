"""Rank discovery, and what follows from the number of ranks. The only reader of rank variables."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fvcore.common.config import CfgNode

if TYPE_CHECKING:
    import torch


RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Topology:
    """How many processes share a step, and what follows from that. The one place where batch and rate are derived.

    TRAIN.BATCH_SIZE counts videos per machine and is divided among its ranks.
    """

    machines: int
    ranks_per_machine: int

    @property
    def ranks(self) -> int:
        return self.machines * self.ranks_per_machine

    def videos_per_rank(self, cfg: CfgNode) -> int:
        """Videos that one rank reads for an optimizer step."""
        return cfg.TRAIN.BATCH_SIZE // self.ranks_per_machine

    def videos_per_step(self, cfg: CfgNode) -> int:
        """The global batch: videos of an optimizer step on all ranks."""
        return self.videos_per_rank(cfg) * self.ranks

    def clips_per_rank(self, cfg: CfgNode) -> int:
        """Clips that go through the model on one rank in an optimizer step."""
        return self.videos_per_rank(cfg) * clips_per_video(cfg)

    def clips_per_step(self, cfg: CfgNode) -> int:
        """Clips of an optimizer step on all ranks."""
        return self.clips_per_rank(cfg) * self.ranks

    def test_clips_per_rank(self, cfg: CfgNode) -> int:
        """Clips of one forward pass of an evaluation on one rank; TEST.BATCH_SIZE counts clips per machine."""
        return max(1, cfg.TEST.BATCH_SIZE // self.ranks_per_machine)

    def lr_scale(self, cfg: CfgNode) -> int:
        """The factor of all learning rates: the number of machines with SOLVER.BASE_LR_SCALE_NUM_SHARDS, else 1."""
        return self.machines if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1

    def learning_rate(self, cfg: CfgNode) -> float:
        """The learning rate after warm-up that really applies."""
        return cfg.SOLVER.BASE_LR * self.lr_scale(cfg)

    def describe_learning_rate(self, cfg: CfgNode) -> str:
        """That learning rate, and how it comes about where it is not SOLVER.BASE_LR."""
        text, scale = f"{self.learning_rate(cfg):g}", self.lr_scale(cfg)
        of = f"SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:g} x {scale} machines, by SOLVER.BASE_LR_SCALE_NUM_SHARDS"
        return f"{text} ({of})" if scale > 1 else text


def current() -> Topology:
    """The topology of the run that this process is a rank of."""
    return Topology(num_machines(), local_world_size())


def planned(cfg: CfgNode) -> Topology:
    """The topology that a config asks for: NUM_SHARDS machines of NUM_GPUS ranks (one rank on a CPU)."""
    return Topology(cfg.NUM_SHARDS, max(cfg.NUM_GPUS, 1))


def clips_per_video(cfg: CfgNode) -> int:
    """Differently augmented training clips of each decoded video."""
    return cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1


def rank() -> int:
    """The global rank of this process."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Processes (ranks) of the run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Ranks on this machine, among which its batch is divided."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def ranks_share_machine(cfg: CfgNode) -> bool:
    """Whether several ranks of the run are on this machine: this one, or those that it is about to start."""
    task = slurm_task() or {}
    return max(local_world_size(), cfg.NUM_GPUS, task.get("LOCAL_WORLD_SIZE", 1)) > 1


def num_machines() -> int:
    """Machines of the run; all have equally many ranks."""
    return world_size() // local_world_size()


def is_main() -> bool:
    """Whether this is rank 0, which writes what is written once."""
    return rank() == 0


def device(cfg: CfgNode) -> "torch.device":
    """The device of this process: its own GPU, or the CPU when NUM_GPUS is 0."""
    import torch  # seconds, which a command that prints a help text must not take

    return torch.device("cuda", local_rank()) if cfg.NUM_GPUS else torch.device("cpu")


def set_rank_env(local: int, local_size: int, machines: int, machine: int) -> None:
    """Set torchrun's variables for process `local` of `local_size` on machine `machine` of `machines`."""
    values = {"RANK": machine * local_size + local, "WORLD_SIZE": machines * local_size}
    values |= {"LOCAL_RANK": local, "LOCAL_WORLD_SIZE": local_size}
    os.environ |= {name: str(value) for name, value in values.items()}


@contextmanager
def restored_rank_env() -> Iterator[None]:
    """Put the rank variables back at the end of the block: code in one process may train and then test."""
    before = {name: os.environ.get(name) for name in RANK_VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def has_rank_env() -> bool:
    """Whether torchrun's variables are set: by torchrun, or by `launch` for a rank that it has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def has_launcher() -> bool:
    """Whether torchrun, srun or `launch` has started this process as a rank."""
    return has_rank_env() or slurm_task() is not None


def slurm_task() -> dict[str, int] | None:
    """torchrun's variables for a process that `srun` started; None for others, among them a batch script."""
    env = os.environ
    if "SLURM_STEP_NUM_TASKS" not in env or "SLURM_PROCID" not in env:
        return None
    counts: list[int] = []  # tasks on each node, which SLURM writes as "2(x3),1"
    for count, repeats in re.findall(r"(\d+)(?:\(x(\d+)\))?", env["SLURM_STEP_TASKS_PER_NODE"]):
        counts += [int(count)] * int(repeats or 1)
    return {
        "RANK": int(env["SLURM_PROCID"]),
        "WORLD_SIZE": int(env["SLURM_STEP_NUM_TASKS"]),
        "LOCAL_RANK": int(env["SLURM_LOCALID"]),
        "LOCAL_WORLD_SIZE": counts[int(env["SLURM_NODEID"])],
    }


def slurm_address() -> str:
    """tcp://HOST:PORT at which the tasks of a SLURM step meet: the first node, and a port derived from the numbers of
    job and step. MASTER_ADDR and MASTER_PORT take precedence."""
    env = os.environ
    nodes = env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"]
    first = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)  # gpu03 in "gpu[03-05,07],big1"
    host = env.get("MASTER_ADDR") or first[1] + (first[2] or "")
    try:
        socket.getaddrinfo(host, None)
    except OSError:  # a node's name need not be that of a host
        host = env.get("SLURM_LAUNCH_NODE_IPADDR", host)
    number = 7 * int(env["SLURM_JOB_ID"]) + int(env.get("SLURM_STEP_ID", 0))
    # below 32768, where Linux's ephemeral ports begin
    return f"tcp://{host}:{env.get('MASTER_PORT') or 20000 + number % 12768}"
