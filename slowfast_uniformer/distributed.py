"""Processes: who am I, start the others, talk to them. Only here are rank variables and process groups.

`torchrun` and SLURM's `srun` start processes and tell each who it is; otherwise one process runs as it is, or
this module starts NUM_GPUS processes. All end up with the variables that `torchrun` sets.
"""

import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fvcore.common.config import CfgNode
from torch import nn

from slowfast_uniformer import interrupt
from slowfast_uniformer.errors import UserError

logger = logging.getLogger(__name__)
_ELASTIC_NOTICE = 20.0  # seconds; torchrun takes 15 to notice that a machine has gone
_store: dist.Store | None = None  # where the ranks of a group leave notes for each other


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


# ------------------------------------------------------------------------------------------------ launching
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
        return _in_group(fn, cfg, init_method or slurm_address())
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        mp._prctl_pr_set_pdeathsig(signal.SIGTERM)  # should torchrun be killed, nobody waits for this one
        return _in_group(fn, cfg, "env://")
    if shards * local == 1:
        with interrupt.listening():
            return fn(cfg)
    if shards > 1 and not init_method.startswith("tcp://"):
        raise UserError(
            f"NUM_SHARDS: {shards} machines need --init_method tcp://HOST:PORT, "
            "with the address of the machine whose --shard_id is 0 (or start with torchrun or srun)"
        )
    init_method = init_method or f"tcp://127.0.0.1:{_free_port()}"
    if local > 1:
        return _start(fn, cfg, init_method, local, shards, shard)
    _be(0, 1, shards, shard)
    _in_group(fn, cfg, init_method)


def _start(fn: Callable, cfg: CfgNode, init_method: str, local: int, shards: int, shard: int) -> None:
    """Start this machine's processes, pass signals on to them, and wait."""
    errors = mp.get_context("spawn").SimpleQueue()
    args = (fn, cfg, init_method, local, shards, shard, errors)
    context = mp.start_processes(_child, args, nprocs=local, join=False, start_method="spawn")

    def pass_on(number: int, frame: Any) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in interrupt.SIGNALS}
    try:
        while not context.join(grace_period=10):
            pass
    except mp.ProcessExitedException as error:
        if not errors.empty():
            raise UserError(errors.get()) from None
        if error.exit_code == interrupt.EXIT_CODE:
            interrupt.leaving(before)
            raise interrupt.Interrupted("ended by a signal") from None
        how = f"by {error.signal_name}" if error.signal_name else f"with status {error.exit_code}"
        raise UserError(f"process {error.error_index} of {local} ended {how}, and so did the run") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _be(local: int, local_size: int, shards: int, shard: int) -> None:
    """Take the place of process `local` of machine `shard`."""
    os.environ.update(
        RANK=str(shard * local_size + local),
        WORLD_SIZE=str(shards * local_size),
        LOCAL_RANK=str(local),
        LOCAL_WORLD_SIZE=str(local_size),
    )


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _child(
    local: int, fn: Callable, cfg: CfgNode, init_method: str, local_size: int, shards: int, shard: int,
    errors: Any,
) -> None:  # fmt: skip
    _be(local, local_size, shards, shard)
    try:
        _in_group(fn, cfg, init_method)
    except UserError as error:
        errors.put(str(error))
        sys.exit(2)
    except interrupt.Interrupted:
        sys.exit(interrupt.EXIT_CODE)


def slurm_task() -> dict[str, int] | None:
    """Of a process that `srun` started, torchrun's variables; None for others, a batch script among them."""
    env = os.environ
    if "SLURM_STEP_NUM_TASKS" not in env or "SLURM_PROCID" not in env:
        return None
    counts: list[int] = []  # of tasks on each node, which SLURM writes as "2(x3),1"
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", env["SLURM_STEP_TASKS_PER_NODE"]):
        counts += [int(count)] * int(times or 1)
    return {
        "RANK": int(env["SLURM_PROCID"]),
        "WORLD_SIZE": int(env["SLURM_STEP_NUM_TASKS"]),
        "LOCAL_RANK": int(env["SLURM_LOCALID"]),
        "LOCAL_WORLD_SIZE": counts[int(env["SLURM_NODEID"])],
    }


def slurm_address() -> str:
    """Where the tasks of a SLURM step meet: on the first node, at a port that follows from the job's and the
    step's numbers. MASTER_ADDR and MASTER_PORT win."""
    env = os.environ
    nodes = env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"]
    first = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)  # of "gpu[03-05,07],big1" it is gpu03
    host = env.get("MASTER_ADDR") or first[1] + (first[2] or "")
    try:
        socket.getaddrinfo(host, None)
    except OSError:  # a node's name need not be that of a host
        host = env.get("SLURM_LAUNCH_NODE_IPADDR", host)
    number = 7 * int(env["SLURM_JOB_ID"]) + int(env.get("SLURM_STEP_ID", 0))
    # below 32768, where the ports begin that Linux gives to connections
    return f"tcp://{host}:{env.get('MASTER_PORT') or 20000 + number % 12768}"


# ------------------------------------------------------------------------------------------------ the group
def _in_group(fn: Callable, cfg: CfgNode, init_method: str) -> None:
    """Join the process group, run, and leave it in any case. What goes wrong between ranks is a UserError."""
    global _store
    here = device(cfg)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    elif "OMP_NUM_THREADS" not in os.environ:  # the processes of one machine share its cores
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size()))
    timeout = timedelta(seconds=cfg.DIST_TIMEOUT)
    _store = _meet(init_method, timeout)
    backend = f"cpu:gloo,cuda:{cfg.DIST_BACKEND}" if here.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("group", _store),
        rank=rank(),
        world_size=world_size(),
        timeout=timeout,
        device_id=here if here.type == "cuda" else None,
    )
    if is_main():
        threading.Thread(target=_watch, args=(_store, world_size(), cfg.DIST_TIMEOUT), daemon=True).start()
    try:
        with interrupt.listening():
            fn(cfg)
    except RuntimeError as error:
        if not between_ranks(error):
            raise
        lost = _lost(error)
        if "TORCHELASTIC_RUN_ID" in os.environ and machines() > 1:
            time.sleep(_ELASTIC_NOTICE)  # started again at once, torchrun would wait for the one that is gone
        raise UserError(lost) from error
    finally:
        _store = None
        dist.destroy_process_group()


def _meet(init_method: str, timeout: timedelta) -> dist.Store:
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


def doing(what: str) -> None:
    """Let the other ranks know what this one is about to do, in case it never ends."""
    if _store is not None:
        _store.set(f"doing/{rank()}", json.dumps([socket.gethostname(), what]))


def _notes(store: dist.Store, world: int) -> dict[int, str]:
    """What each rank was last doing, and where."""
    notes = {}
    for other in range(world):
        if store.check([f"doing/{other}"]):
            host, what = json.loads(store.get(f"doing/{other}"))
            notes[other] = f"rank {other} on {host}: {what}"
    return notes


def _watch(store: dist.Store, world: int, timeout: float) -> None:
    """Name ranks that have been at the same thing for half the time-out, each time once."""
    since: dict[int, tuple[str, float]] = {}
    named: dict[int, str] = {}
    while dist.is_initialized():
        time.sleep(min(30.0, timeout / 8))
        try:
            notes = _notes(store, world)
        except (dist.DistError, RuntimeError):  # the run is over
            return
        now = time.monotonic()
        since = {r: since[r] if since.get(r, ("",))[0] == note else (note, now) for r, note in notes.items()}
        for other, (note, start) in since.items():
            if now - start > timeout / 2 and named.get(other) != note:
                named[other] = note
                logger.warning("no progress for %.0f s: %s", now - start, note)


def between_ranks(error: RuntimeError) -> bool:
    """Whether it is an exchange with other ranks that has failed. Not all of gloo's messages name it: where
    one exchange has timed out, another that waits beside it fails with "pair closure" alone."""
    known = r"gloo|nccl|ProcessGroup|pair closure|Connection (closed|reset)"
    return isinstance(error, dist.DistError) or bool(re.search(known, str(error), re.IGNORECASE))


def _lost(error: RuntimeError) -> str:
    """What a failed exchange with other ranks means, with what each of them was last doing."""
    cause = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0])  # without a place in gloo's source
    own = f"rank {rank()} on {socket.gethostname()}"
    try:
        notes = _notes(_store, world_size())
        mine = notes.get(rank(), "").partition(": ")[2]
        others = [note for other, note in notes.items() if other != rank()]
        apart = [note for note in others if not note.endswith(f": {mine}")]
        told = "Last known: " + "; ".join((apart or others)[:8])
    except (dist.DistError, RuntimeError):
        told = "Rank 0, which keeps the notes on what the others do, is gone; see its log"
    return (
        f"{own}: another rank has ended or hangs ({cause}). {told}. The run continues from its newest "
        "checkpoint when it is started again (DIST_TIMEOUT says how long a rank is waited for)"
    )


class Vote:
    """Wishes of all ranks, told to all of them at the same step without any having to wait: what is wished at
    one call comes true at the next."""

    def __init__(self) -> None:
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def __call__(self, *wishes: bool) -> list[bool]:
        """Say what this rank wishes now; returns which wishes some rank had at the last call."""
        if world_size() == 1:
            return list(wishes)
        told = [False] * len(wishes)
        if self._sent:
            flags, work = self._sent
            work.wait()
            told = flags.bool().tolist()
        flags = torch.tensor(wishes, dtype=torch.float32)
        self._sent = flags, dist.all_reduce(flags, dist.ReduceOp.MAX, async_op=True)
        return told


def shard(model: nn.Module, parts: Iterable[nn.Module], where: torch.device) -> None:
    """FSDP2: every rank keeps its part of each parameter, in place; those of `parts` (inner ones first) are
    gathered when each is needed, and the rest at once."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of blocks that return a view, which must not be changed in place: no model here does that.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(where.type, (world_size(),))
    for part in [*parts, model]:
        fully_shard(part, mesh=mesh)


def wrap(model: nn.Module, where: torch.device, alike: bool) -> nn.Module:
    """The model in DistributedDataParallel, or as it is in a run of one process or one that is sharded.

    `alike`: whether each backward pass exchanges gradients (see `sync_gradients`), so that the first tells
    what all need.
    """
    if world_size() == 1 or is_sharded(model):
        return model
    devices = [where] if where.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, static_graph=alike
    )


def is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


def sync_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward pass exchanges gradients with the other ranks, or leaves that to a later."""
    if is_sharded(model):
        model.set_requires_gradient_sync(now)
    else:
        model.require_backward_grad_sync = now


def whole(value: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this rank may hold a part; collective if so."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def own_part(value: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor, as a view of it."""
    return value.to_local() if hasattr(value, "to_local") else value


def part_like(own: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Of a whole tensor, the part that this rank holds of `own`."""
    if not hasattr(own, "full_tensor") or hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def share(values: Iterable[torch.Tensor]) -> None:
    """Give every rank the values of rank 0, such as batch norms' statistics, in place."""
    if world_size() > 1:
        for value in values:
            dist.broadcast(value, 0)


def from_main(value: Any) -> Any:
    """Rank 0's picklable value, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def average(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def gather(value: Any, group: Any = None) -> list:
    """The picklable `value` of every process, in rank order, in every process."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return values


def second_group() -> Any:
    """Another way between all processes, for a thread beside the training; None in a run of one."""
    return dist.new_group(backend="gloo") if world_size() > 1 else None


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()
