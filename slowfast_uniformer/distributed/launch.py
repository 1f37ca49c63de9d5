"""Start the processes of a run and join them in a process group.

`torchrun` and SLURM's `srun` start the processes themselves. Otherwise a run is the calling process alone, or this
module spawns NUM_GPUS processes. Several ranks have the environment variables that `torchrun` sets.
"""

import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fvcore.common.config import CfgNode

from slowfast_uniformer import terminal
from slowfast_uniformer.distributed import signals, status, topology
from slowfast_uniformer.errors import LostRankError, UserError

logger = logging.getLogger(__name__)
_LAUNCHES = itertools.count()  # of this process: code may train and then test
# Of this process, by address: the next launch, perhaps of the next fold, takes the same one. Were rank 0 to open
# another at the same port, a rank that is early would still reach the old one.
_STORES: dict[tuple[str, int, int], dist.Store] = {}
_ELASTIC_NOTICE = 20.0  # seconds; torchrun takes 15 to notice that a machine has gone


def launch(fn: Callable[[CfgNode], Any], cfg: CfgNode, init_method: str = "") -> None:
    """Run `fn(cfg)` on every rank of the run.

    The ranks are the processes that torchrun or srun has started; or the calling process, alone; or NUM_GPUS
    processes that are spawned here, on each of NUM_SHARDS machines or in each of srun's tasks if it starts one a node.

    Args:
        fn: picklable where processes are spawned.
        init_method: tcp://HOST:PORT of machine 0; needed for several machines without torchrun and srun.

    Raises:
        UserError, Interrupted: once, if any rank raises it.
        LostRankError: another rank has ended or hangs. End the process with `os._exit`: gloo's threads may still
            delete tensors of pending collectives, which aborts a process whose interpreter is ending.
    """
    with topology.restored_rank_env():
        _launch(fn, cfg, init_method)


def _launch(fn: Callable, cfg: CfgNode, init_method: str) -> None:
    task = None if topology.has_rank_env() else topology.slurm_task()
    ranks, machines, machine = max(cfg.NUM_GPUS, 1), cfg.NUM_SHARDS, cfg.SHARD_ID
    if task and task["LOCAL_WORLD_SIZE"] == 1 and ranks > 1:  # one task a node, which spawns the node's ranks
        machines, machine, init_method = task["WORLD_SIZE"], task["RANK"], init_method or topology.slurm_address()
    elif task and task["WORLD_SIZE"] > 1:
        os.environ.update({name: str(value) for name, value in task.items()})
        return _run_in_group(fn, cfg, init_method or topology.slurm_address())
    if topology.has_rank_env():
        mp._prctl_pr_set_pdeathsig(signal.SIGTERM)  # should torchrun be killed, nobody waits for this process
        return _run_in_group(fn, cfg, "env://")
    if machines * ranks == 1:
        with signals.handle_signals():
            return fn(cfg)
    if machines > 1 and not init_method.startswith("tcp://"):
        raise UserError(
            f"NUM_SHARDS: {machines} machines need --init_method tcp://HOST:PORT, "
            "the address of the machine with --shard_id 0 (or start the command with torchrun or srun)"
        )
    init_method = init_method or f"tcp://127.0.0.1:{_free_port()}"
    if ranks > 1:
        return _spawn(fn, cfg, init_method, ranks, machines, machine)
    topology.set_rank_env(0, 1, machines, machine)
    _run_in_group(fn, cfg, init_method)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _spawn(fn: Callable, cfg: CfgNode, init_method: str, ranks: int, machines: int, machine: int) -> None:
    """Spawn this machine's ranks, forward signals to them, and wait."""
    errors = mp.get_context("spawn").SimpleQueue()
    args = (fn, cfg, init_method, errors, ranks, machines, machine)
    context = mp.start_processes(_spawned, args, nprocs=ranks, join=False, start_method="spawn")

    def forward(number: int, frame: FrameType | None) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    with signals.handle_signals(forward):
        try:
            while not context.join(grace_period=10):
                pass
        except mp.ProcessExitedException as error:
            if not errors.empty():
                raise UserError(errors.get()) from None
            if error.exit_code == signals.EXIT_CODE:
                raise signals.Interrupted("a signal has requested a stop") from None
            how = f"by {error.signal_name}" if error.signal_name else f"with status {error.exit_code}"
            raise UserError(
                f"process {error.error_index} of {ranks} ended {how}, which ended the run; its last lines are above"
            ) from None


def _spawned(local: int, fn: Callable, cfg: CfgNode, init_method: str, errors: Any, *sizes: int) -> None:
    """Process `local` of this machine; `sizes` are the other arguments of `set_rank_env`."""
    terminal.prepare()
    topology.set_rank_env(local, *sizes)
    try:
        _run_in_group(fn, cfg, init_method)
    except UserError as error:
        errors.put(str(error))
        sys.exit(2)
    except signals.Interrupted:
        sys.exit(signals.EXIT_CODE)
    finally:
        terminal.settle()


def _run_in_group(fn: Callable, cfg: CfgNode, init_method: str) -> None:
    """Create the process group, run `fn`, destroy the group in any case. Raises LostRankError if a collective fails."""
    device = topology.device(cfg)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:  # the ranks of one machine share its cores
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // topology.local_world_size()))
    timeout, world = timedelta(seconds=cfg.DIST_TIMEOUT), topology.world_size()
    store = _rendezvous(init_method, timeout)
    status.attach(store)
    dist.init_process_group(
        f"cpu:gloo,cuda:{cfg.DIST_BACKEND}" if on_gpu else "gloo",
        store=dist.PrefixStore("group", store),
        rank=topology.rank(),
        world_size=world,
        timeout=timeout,
        device_id=device if on_gpu else None,
    )
    ended = threading.Event()
    watcher = threading.Thread(target=status.watch, args=(store, world, cfg.DIST_TIMEOUT, ended), daemon=True)
    if topology.is_main():
        watcher.start()
    try:
        with signals.handle_signals():
            fn(cfg)
    except BaseException as error:
        _STORES.clear()  # not all ranks need have come to the same end
        if not (isinstance(error, RuntimeError) and status.is_communication_error(error)):
            raise
        lost = status.explain_lost_rank(error)
        if "TORCHELASTIC_RUN_ID" in os.environ and topology.num_machines() > 1:
            time.sleep(_ELASTIC_NOTICE)  # restarted at once, torchrun would wait for the machine that is gone
        raise LostRankError(lost) from error
    finally:
        ended.set()
        if topology.is_main():
            watcher.join(5.0)  # it holds the store
        status.attach(None)
        dist.destroy_process_group()


def _rendezvous(init_method: str, timeout: timedelta) -> dist.Store:
    """The store that all ranks share, once all have joined. UserError names those that have not."""
    host, rank, world = socket.gethostname(), topology.rank(), topology.world_size()
    at = (init_method, rank, world)
    try:
        store = _STORES.pop(at, None) or _open_store(init_method, rank, world, timeout)
    except (dist.DistError, RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise UserError(
                f"{init_method}: the port is in use; set another with MASTER_PORT or --init_method"
            ) from None
        where = init_method if init_method != "env://" else os.environ.get("MASTER_ADDR", init_method)
        raise UserError(
            f"rank {rank} on {host}: rank 0 cannot be reached at {where} ({str(error).splitlines()[0]}). "
            "Check that rank 0 runs, and that nodes may connect to this port"
        ) from None
    # torchrun's store outlives a launch and, on one machine, a restart: ranks would find the addresses of dead ones.
    # On several machines each restart has a store of its own, and the agents' counts of restarts may differ.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if topology.num_machines() == 1 else "0"
    whole, store = store, dist.PrefixStore(f"launch/{attempt}/{next(_LAUNCHES)}", store)
    keys = [f"joined/{other}" for other in range(world)]
    store.set(keys[rank], host)
    try:
        store.wait(keys, timeout)
    except (dist.DistError, RuntimeError):
        missing = [str(other) for other, key in enumerate(keys) if not store.check([key])]
        raise UserError(
            f"rank {rank} on {host}: after {timeout.total_seconds():g} s (DIST_TIMEOUT) these of "
            f"{world} ranks are missing: {', '.join(missing)}. Their logs say why they did not start"
        ) from None
    _STORES[at] = whole
    return store


def _open_store(init_method: str, rank: int, world: int, timeout: timedelta) -> dist.Store:
    if init_method == "env://":
        return next(dist.rendezvous(init_method, rank, world, timeout=timeout))[0]
    address, port = init_method.removeprefix("tcp://").rsplit(":", 1)
    return dist.TCPStore(address, int(port), world, rank == 0, timeout, wait_for_workers=False)
