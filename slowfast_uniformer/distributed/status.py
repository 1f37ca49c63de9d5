"""What each rank is doing, so that the others can name one that hangs or has ended."""

import json
import logging
import re
import socket
import threading
import time

import torch.distributed as dist

from slowfast_uniformer.distributed.topology import rank, world_size

logger = logging.getLogger(__name__)
_store: dist.Store | None = None  # the key-value store of the process group


def attach(store: dist.Store | None) -> None:
    """Keep statuses in the store of a process group; None when the group is destroyed."""
    global _store
    _store = store


def set_status(activity: str) -> None:
    """Publish what this rank is about to do, in case it never ends. Without a process group nothing happens."""
    if _store is not None:
        _store.set(f"status/{rank()}", json.dumps([socket.gethostname(), activity]))


def read_statuses(store: dist.Store, world: int) -> dict[int, str]:
    """The last status of each rank that has set one: "rank R on HOST: ACTIVITY"."""
    statuses = {}
    for other in range(world):
        if store.check([f"status/{other}"]):
            host, activity = json.loads(store.get(f"status/{other}"))
            statuses[other] = f"rank {other} on {host}: {activity}"
    return statuses


def watch(store: dist.Store, world: int, timeout: float, ended: threading.Event) -> None:
    """Until `ended`, warn of each rank whose status has not changed for half of `timeout` seconds, once per status."""
    since: dict[int, tuple[str, float]] = {}
    reported: dict[int, str] = {}
    while not ended.wait(min(30.0, timeout / 8)):
        try:
            statuses = read_statuses(store, world)
        except (dist.DistError, RuntimeError):  # the run is over
            return
        now = time.monotonic()
        for other, status in statuses.items():
            if since.get(other, ("",))[0] != status:
                since[other] = (status, now)
            elif now - since[other][1] > timeout / 2 and reported.get(other) != status:
                reported[other] = status
                logger.warning("no progress for %.0f s: %s", now - since[other][1], status)


def is_communication_error(error: RuntimeError) -> bool:
    """Whether a collective has failed. Not all of gloo's messages name it: where one collective has timed out,
    another that is pending beside it fails with "pair closure" alone."""
    known = r"gloo|nccl|ProcessGroup|pair closure|Connection (closed|reset)"
    return isinstance(error, dist.DistError) or bool(re.search(known, str(error), re.IGNORECASE))


def explain_lost_rank(error: RuntimeError) -> str:
    """What a failed collective means, with the last status of the ranks that did something else."""
    cause = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0])  # without a line number of gloo's source
    try:
        statuses = read_statuses(_store, world_size())
        activity = statuses.get(rank(), "").partition(": ")[2]
        others = [status for other, status in statuses.items() if other != rank()]
        differing = [status for status in others if not status.endswith(f": {activity}")]
        known = "Last known: " + "; ".join((differing or others)[:8])
    except (dist.DistError, RuntimeError):
        known = "Rank 0 has ended; see its log"
    return (
        f"rank {rank()} on {socket.gethostname()}: another rank has ended or hangs ({cause}). {known}. "
        "Start the run again with TRAIN.AUTO_RESUME True: it continues from its latest checkpoint. DIST_TIMEOUT sets "
        "how long to wait for a rank"
    )
