"""Processes: who am I, start the others, talk to them. Only here are rank variables and process groups.

One process runs as it is; `torchrun` sets the variables below for each of its processes; otherwise this
module starts NUM_GPUS processes and sets the same variables in them.
"""

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fvcore.common.config import CfgNode
from torch import nn

from slowfast_uniformer.errors import UserError


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def local_size() -> int:
    """Processes on this machine, among which its batch is divided."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def machines() -> int:
    return world_size() // local_size()


def is_main() -> bool:
    return rank() == 0


def device(cfg: CfgNode) -> torch.device:
    """The device of this process: its own GPU, or the CPU when NUM_GPUS is 0."""
    return torch.device("cuda", local_rank()) if cfg.NUM_GPUS else torch.device("cpu")


def launch(fn: Callable[[CfgNode], Any], cfg: CfgNode, init_method: str = "") -> None:
    """Run `fn(cfg)` in every process of the run: under torchrun, alone, or in processes started here.

    `init_method` (tcp://HOST:PORT of machine 0) is needed for several machines without torchrun. A UserError
    in any process is raised here, once.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _in_group(fn, cfg, "env://")
        return
    local = max(cfg.NUM_GPUS, 1)
    if cfg.NUM_SHARDS * local == 1:
        fn(cfg)
        return
    if cfg.NUM_SHARDS > 1 and not init_method.startswith("tcp://"):
        raise UserError(
            f"NUM_SHARDS: {cfg.NUM_SHARDS} machines need --init_method tcp://HOST:PORT, "
            "with the address of the machine whose --shard_id is 0 (or start with torchrun)"
        )
    errors = mp.get_context("spawn").SimpleQueue()
    args = (fn, cfg, init_method or f"tcp://127.0.0.1:{_free_port()}", local, errors)
    try:
        mp.start_processes(_child, args, nprocs=local, start_method="spawn")
    except mp.ProcessExitedException:
        if errors.empty():
            raise
        raise UserError(errors.get()) from None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _child(local: int, fn: Callable, cfg: CfgNode, init_method: str, local_size: int, errors: Any) -> None:
    os.environ.update(
        RANK=str(cfg.SHARD_ID * local_size + local),
        WORLD_SIZE=str(cfg.NUM_SHARDS * local_size),
        LOCAL_RANK=str(local),
        LOCAL_WORLD_SIZE=str(local_size),
    )
    try:
        _in_group(fn, cfg, init_method)
    except UserError as error:
        errors.put(str(error))
        sys.exit(2)


def _in_group(fn: Callable, cfg: CfgNode, init_method: str) -> None:
    """Join the process group, run, and leave it in any case."""
    here = device(cfg)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    elif "OMP_NUM_THREADS" not in os.environ:  # the processes of one machine share its cores
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size()))
    dist.init_process_group(
        cfg.DIST_BACKEND,
        init_method=init_method,
        rank=rank(),
        world_size=world_size(),
        device_id=here if here.type == "cuda" else None,
    )
    try:
        fn(cfg)
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module, where: torch.device) -> nn.Module:
    """The model in DistributedDataParallel, or as it is in a run of one process."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[where] if where.type == "cuda" else None)


def average(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def gather(value: Any) -> list:
    """The picklable `value` of every process, in rank order, in every process."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()
