"""Launch the processes of a run and join them in a process group.

`torchrun` and SLURM's `srun` start processes by themselves; otherwise one process runs as it is, or this module
starts NUM_GPUS processes. All end up with the rank variables that `torchrun` sets.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fvcore.common.config import CfgNode

from slowfast_uniformer.distributed import signals, status
from slowfast_uniformer.distributed.topology import (
    device,
    is_main,
    local_world_size,
    num_machines,
    rank,
    set_rank_env,
    slurm_address,
    slurm_task,
    world_size,
)
from slowfast_uniformer.errors import UserError

logger = logging.getLogger(__name__)
_ELASTIC_NOTICE = 20.0  # seconds; torchrun takes 15 to notice that a machine has gone


def launch(fn: Callable[[CfgNode], Any], cfg: CfgNode, init_method: str = "") -> None:
    """Run `fn(cfg)` in every process of the run: those that torchrun or srun has started, this one alone, or
    NUM_GPUS that are started here (on each machine of NUM_SHARDS, or in each of srun's tasks if it starts
    one a node).

    `init_method` (tcp://HOST:PORT of machine 0) is needed for several machines without torchrun and srun. A
    UserError or Interrupted in any process is raised here, once.
    """
    task = slurm_task() if "RANK" not in os.environ else None
    local, shards, shard = max(cfg.NUM_GPUS, 1), cfg.NUM_SHARDS, cfg.SHARD_ID
    if task and task["LOCAL_WORLD_SIZE"] == 1 and local > 1:  # one task a node: it starts that node's others
        shards, shard, init_method = task["WORLD_SIZE"], task["RANK"], init_method or slurm_address()
    elif task and task["WORLD_SIZE"] > 1:
        os.environ.update({name: str(value) for name, value in task.items()})
        return _run_in_group(fn, cfg, init_method or slurm_address())
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        mp._prctl_pr_set_pdeathsig(signal.SIGTERM)  # should torchrun be killed, nobody waits for this one
        return _run_in_group(fn, cfg, "env://")
    if shards * local == 1:
        with signals.handle_signals():
            return fn(cfg)
    if shards > 1 and not init_method.startswith("tcp://"):
        raise UserError(
            f"NUM_SHARDS: {shards} machines need --init_method tcp://HOST:PORT, "
            "with the address of the machine whose --shard_id is 0 (or start with torchrun or srun)"
        )
    init_method = init_method or f"tcp://127.0.0.1:{_free_port()}"
    if local > 1:
        return _start_processes(fn, cfg, init_method, local, shards, shard)
    set_rank_env(0, 1, shards, shard)
    _run_in_group(fn, cfg, init_method)


def _start_processes(fn: Callable, cfg: CfgNode, init_method: str, local: int, shards: int, shard: int) -> None:
    """Start this machine's processes, pass signals on to them, and wait."""
    errors = mp.get_context("spawn").SimpleQueue()
    args = (fn, cfg, init_method, local, shards, shard, errors)
    context = mp.start_processes(_child, args, nprocs=local, join=False, start_method="spawn")

    def pass_on(number: int, frame: Any) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in signals.SIGNALS}
    try:
        while not context.join(grace_period=10):
            pass
    except mp.ProcessExitedException as error:
        if not errors.empty():
            raise UserError(errors.get()) from None
        if error.exit_code == signals.EXIT_CODE:
            signals.ignore_sigterm_on_exit(before)
            raise signals.Interrupted("ended by a signal") from None
        how = f"by {error.signal_name}" if error.signal_name else f"with status {error.exit_code}"
        raise UserError(f"process {error.error_index} of {local} ended {how}, and so did the run") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _child(
    local: int, fn: Callable, cfg: CfgNode, init_method: str, local_size: int, shards: int, shard: int, errors: Any
) -> None:
    set_rank_env(local, local_size, shards, shard)
    try:
        _run_in_group(fn, cfg, init_method)
    except UserError as error:
        errors.put(str(error))
        sys.exit(2)
    except signals.Interrupted:
        sys.exit(signals.EXIT_CODE)


def _run_in_group(fn: Callable, cfg: CfgNode, init_method: str) -> None:
    """Join the process group, run, and leave it in any case. What goes wrong between ranks is a UserError."""
    here = device(cfg)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    elif "OMP_NUM_THREADS" not in os.environ:  # the processes of one machine share its cores
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world_size()))
    timeout = timedelta(seconds=cfg.DIST_TIMEOUT)
    store = _rendezvous(init_method, timeout)
    status.attach(store)
    backend = f"cpu:gloo,cuda:{cfg.DIST_BACKEND}" if here.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("group", store),
        rank=rank(),
        world_size=world_size(),
        timeout=timeout,
        device_id=here if here.type == "cuda" else None,
    )
    if is_main():
        threading.Thread(target=status.watch, args=(store, world_size(), cfg.DIST_TIMEOUT), daemon=True).start()
    try:
        with signals.handle_signals():
            fn(cfg)
    except RuntimeError as error:
        if not status.is_communication_error(error):
            raise
        lost = status.explain_lost_rank(error)
        if "TORCHELASTIC_RUN_ID" in os.environ and num_machines() > 1:
            time.sleep(_ELASTIC_NOTICE)  # started again at once, torchrun would wait for the one that is gone
        raise UserError(lost) from error
    finally:
        status.attach(None)
        dist.destroy_process_group()


def _rendezvous(init_method: str, timeout: timedelta) -> dist.Store:
    """The store that all ranks share, once all have come. UserError names those that did not."""
    here, world = socket.gethostname(), world_size()
    try:
        if init_method == "env://":
            store, _, _ = next(dist.rendezvous(init_method, rank(), world, timeout=timeout))
        else:
            host, port = init_method.removeprefix("tcp://").rsplit(":", 1)
            store = dist.TCPStore(host, int(port), world, is_main(), timeout, wait_for_workers=False)
    except (dist.DistError, RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise UserError(f"{init_method}: that port is in use; set MASTER_PORT or --init_method") from None
        where = init_method if init_method != "env://" else os.environ.get("MASTER_ADDR", init_method)
        raise UserError(
            f"rank {rank()} on {here}: rank 0 cannot be reached at {where} ({str(error).splitlines()[0]}). "
            "Check that it runs, and that nodes may connect to that port"
        ) from None
    store.set(f"came/{rank()}", here)
    try:
        store.wait([f"came/{other}" for other in range(world)], timeout)
    except (dist.DistError, RuntimeError):
        missing = [str(other) for other in range(world) if not store.check([f"came/{other}"])]
        raise UserError(
            f"rank {rank()} on {here}: after {timeout.total_seconds():g} s (DIST_TIMEOUT) there is no rank "
            f"{', '.join(missing)} of {world}. See in their logs why they did not start"
        ) from None
    return store
