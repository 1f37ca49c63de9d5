"""Random numbers as a function of position: (RNG_SEED, epoch, video or step, rank) determine every draw of a run.

No draw depends on the number of DataLoader workers or on earlier draws. So a resumed run draws the same numbers as one
that was never interrupted, and checkpoints need no generator states.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """Return a 32-bit seed that depends on all of the non-negative integers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU generators of Python, NumPy and PyTorch in the block, and restore their states after it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
