"""Random numbers as a function of position: (RNG_SEED, epoch, video or step, rank) determine every draw of a run.

No draw depends on the number of DataLoader workers or on earlier draws. So a resumed run draws the same numbers as one
that was never interrupted, and checkpoints need no generator states.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """Return a 32-bit seed that depends on all of the non-negative integers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(*numbers: int, seed_torch: Callable[[int], Any] = torch.manual_seed) -> None:
    """Seed Python, NumPy and PyTorch (all devices, unless `seed_torch` seeds fewer)."""
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    seed_torch(seed)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU generators of Python, NumPy and PyTorch in the block, and restore their states after it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(*numbers, seed_torch=torch.default_generator.manual_seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
