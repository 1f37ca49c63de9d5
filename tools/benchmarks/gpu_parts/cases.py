"""Cases of a benchmark that run one after another in a process of their own, within a time limit.

A case that fails, hangs, runs out of memory or ends its process is a row with its error, and the others go on. After a
fault of the device that PyTorch cannot recover from in the same process, the next case gets a new one.
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

Row = dict[str, Any]
START = 90.0  # seconds for a process to begin: PyTorch is imported, perhaps from a slow disk
LEAST = 3.0  # seconds of a part that must be left to begin a case


class Skip(Exception):
    """This machine lacks what a case needs; the message says what."""


@dataclass(frozen=True)
class Case:
    """Something to check or measure.

    Attributes:
        name: of its row.
        work: a function of a module. It returns the row's figures, with "status" where that is not "ok".
        arguments: keyword arguments for it, picklable.
        limit: seconds that it may take.
    """

    name: str
    work: Callable[..., Row]
    arguments: dict[str, Any] = field(default_factory=dict)
    limit: float = 60.0


def run_cases(cases: Sequence[Case], deadline: float, log: str) -> Iterator[Row]:
    """Run cases in order, and yield the row of each.

    Args:
        cases: the cases of a part.
        deadline: by time.monotonic(): no case begins after it, and the one that runs is ended.
        log: file to which their processes append what they print.

    Yields:
        {"name", "status", "seconds", ...}. The status is "ok"; "failed", where a figure is beyond its limit; "error";
        "skipped", where this machine lacks something; or "cut", where the part's time was up. "reason" says why.
    """
    process = None
    try:
        for case in cases:
            left = deadline - time.monotonic()
            if left < LEAST:
                yield {"name": case.name, "status": "cut", "seconds": 0.0, "reason": "the part's time was up before it"}
                continue
            start = time.monotonic()
            process = process or _Process(log)
            row = process.run(case, deadline)
            if row.pop("ended", False):
                process = process.kill()
            yield {"name": case.name, **row, "seconds": round(time.monotonic() - start, 2)}
        if process:
            process.end()
            process = None
    finally:
        if process:
            process.kill()


class _Process:
    """A process that runs cases, the first one of a process group with all that it starts.

    It has a cache of compiled code of its own: a file of it may be broken where the process is killed.
    """

    def __init__(self, log: str):
        self.cache = tempfile.TemporaryDirectory(prefix="gpu_cache_", ignore_cleanup_errors=True)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, log, self.cache.name))
        self.process.start()
        theirs.close()  # so that its end is seen here
        self.ready = False

    def run(self, case: Case, deadline: float) -> Row:
        """The row of a case; "ended" where the process cannot run another."""
        if not self.ready:
            self.ready = True
            if started := self._receive(min(deadline, time.monotonic() + START), START, deadline):
                return started
        self.connection.send(case)
        end = min(deadline, time.monotonic() + case.limit)
        return self._receive(end, case.limit, deadline)

    def _receive(self, end: float, limit: float, deadline: float) -> Row:
        """What the process sends until `end`, or a row that says why it sends nothing."""
        try:
            if self.connection.poll(max(0.0, end - time.monotonic())):
                return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(5.0)
            return {"status": "error", "reason": f"its process ended: {_how(self.process.exitcode)}", "ended": True}
        if end == deadline:
            return {"status": "cut", "reason": "the part's time was up, and it was ended", "ended": True}
        return {"status": "error", "reason": f"it took more than {limit:.0f} s, and was ended", "ended": True}

    def end(self) -> None:
        """Have the process end by itself, now that it waits for a case."""
        with suppress(BrokenPipeError):
            self.connection.send(None)
        self.process.join(3.0)
        self.kill()

    def kill(self) -> None:
        """End the process and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # where it has no group yet
        self.process.join()
        self.connection.close()
        self.cache.cleanup()


def _how(status: int | None) -> str:
    return f"by {signal.Signals(-status).name}" if status is not None and status < 0 else f"status {status}"


def _serve(connection: Connection, log: str, cache: str) -> None:
    """Run the cases that arrive, and send their rows."""
    os.setpgid(0, 0)
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": os.path.join(cache, "triton")}
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch
    import torch.multiprocessing as mp

    mp._prctl_pr_set_pdeathsig(signal.SIGKILL)  # should the parent be killed, nobody reads the rows
    connection.send({})
    ended = False
    while not ended and (case := connection.recv()):
        print(f"== {case.name}", flush=True)
        row = attempt(case.work, case.arguments)
        ended = row["status"] == "error" and not _device_works(torch)
        connection.send({**row, "ended": ended})


def attempt(work: Callable[..., Row], arguments: dict[str, Any]) -> Row:
    """The row of a case in this process. Memory is free again at the end."""
    try:
        row = {"status": "ok", **work(**arguments)}
    except Skip as reason:
        row = {"status": "skipped", "reason": str(reason)}
    except Exception as error:
        traceback.print_exc()
        first = next(iter(str(error).strip().splitlines()), "")
        row = {"status": "error", "reason": f"{type(error).__name__}: {first}"}
    free_memory()
    return row


def free_memory() -> None:
    """Give back what a case has held: cached memory of the device, and compiled graphs."""
    import torch

    if "torch._dynamo" in sys.modules:  # takes seconds to import
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        with suppress(RuntimeError):  # of a device that no longer works
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _device_works(torch: Any) -> bool:
    """Whether the device still computes: an illegal access spoils a process for good."""
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.zeros(1, device="cuda").add_(1).item()
        return True
    except RuntimeError as error:
        print(f"the device no longer works: {error}", file=sys.stderr, flush=True)
        return False
