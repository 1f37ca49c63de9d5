"""What each rank is doing, for the others to name the one that hangs or is gone."""

import json
import logging
import re
import socket
import time

import torch.distributed as dist

from slowfast_uniformer.distributed.topology import rank, world_size

logger = logging.getLogger(__name__)
_store: dist.Store | None = None  # where the ranks of a group leave notes for each other


def attach(store: dist.Store | None) -> None:
    """Use the store of a process group for statuses; None when the group is left."""
    global _store
    _store = store


def set_status(what: str) -> None:
    """Let the other ranks know what this one is about to do, in case it never ends."""
    if _store is not None:
        _store.set(f"doing/{rank()}", json.dumps([socket.gethostname(), what]))


def read_statuses(store: dist.Store, world: int) -> dict[int, str]:
    """What each rank was last doing, and where."""
    notes = {}
    for other in range(world):
        if store.check([f"doing/{other}"]):
            host, what = json.loads(store.get(f"doing/{other}"))
            notes[other] = f"rank {other} on {host}: {what}"
    return notes


def watch(store: dist.Store, world: int, timeout: float) -> None:
    """Name ranks that have been at the same thing for half the time-out, each time once."""
    since: dict[int, tuple[str, float]] = {}
    named: dict[int, str] = {}
    while dist.is_initialized():
        time.sleep(min(30.0, timeout / 8))
        try:
            notes = read_statuses(store, world)
        except (dist.DistError, RuntimeError):  # the run is over
            return
        now = time.monotonic()
        since = {r: since[r] if since.get(r, ("",))[0] == note else (note, now) for r, note in notes.items()}
        for other, (note, start) in since.items():
            if now - start > timeout / 2 and named.get(other) != note:
                named[other] = note
                logger.warning("no progress for %.0f s: %s", now - start, note)


def is_communication_error(error: RuntimeError) -> bool:
    """Whether it is an exchange with other ranks that has failed. Not all of gloo's messages name it: where
    one exchange has timed out, another that waits beside it fails with "pair closure" alone."""
    known = r"gloo|nccl|ProcessGroup|pair closure|Connection (closed|reset)"
    return isinstance(error, dist.DistError) or bool(re.search(known, str(error), re.IGNORECASE))


def explain_lost_rank(error: RuntimeError) -> str:
    """What a failed exchange with other ranks means, with what each of them was last doing."""
    cause = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0])  # without a place in gloo's source
    own = f"rank {rank()} on {socket.gethostname()}"
    try:
        notes = read_statuses(_store, world_size())
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
