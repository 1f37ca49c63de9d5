"""Work on many files in processes of their own: one that crashes costs its own file only."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")
_stop: Any = None  # in a process of the pool: set when the work is to end


def work(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, crashed: Callable[[Item], Result]
) -> Iterator[tuple[Item, Result]]:
    """Yield each item and `function(item)`, in any order.

    If a process dies, the items that it may have worked on are tried again one by one. Ctrl-C raises KeyboardInterrupt
    in the caller; a function that takes long should call `check_stop` now and then.

    Args:
        function: Of a module, as it is sent to other processes. What it raises is raised here and ends the work.
        items: What to work on.
        workers: Number of processes; 0 for this one.
        crashed: The result of an item with which a process dies.
    """
    if not workers:
        yield from ((item, function(item)) for item in items)
        return
    context = get_context("spawn")
    stop = context.Event()
    interrupted: list[bool] = []  # Ctrl-C fills it: KeyboardInterrupt inside a pool's own code can leave its locks held
    before = signal.signal(signal.SIGINT, lambda *_: (interrupted.append(True), stop.set()))
    try:
        yield from _in_pools(function, deque(items), workers, crashed, interrupted, (context, stop))
    finally:
        stop.set()
        signal.signal(signal.SIGINT, before)


def check_stop() -> None:
    """KeyboardInterrupt if the work of this process is to end."""
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt


def _in_pools(
    function: Callable, waiting: deque, workers: int, crashed: Callable, interrupted: list, start: tuple
) -> Iterator[tuple]:
    while waiting:
        pool = _pool(workers, *start)
        running: dict[Future, Any] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 4 * workers and not interrupted:
                    running[pool.submit(function, waiting[0])] = waiting[0]
                    waiting.popleft()
                done = wait(running, return_when=FIRST_COMPLETED).done
                if interrupted:
                    raise KeyboardInterrupt
                for future in done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            yield from ((item, _alone(function, item, crashed, start)) for item in running.values())
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(workers: int, context: Any, stop: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, context, _init_worker, (stop,))


def _init_worker(stop: Any) -> None:
    """Leave Ctrl-C to the main process, and end with it if it is killed."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _alone(function: Callable, item: Any, crashed: Callable, start: tuple) -> Any:
    with _pool(1, *start) as pool:
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return crashed(item)
