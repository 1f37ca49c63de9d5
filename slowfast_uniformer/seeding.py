"""Randomness as a function of position: (RNG_SEED, epoch, video or step, rank) determine every draw of a run.

Nothing depends on how many workers load, nor on what ran before, so a run that is continued draws as if it
had never stopped, and a checkpoint needs to carry no generator's state.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """A 32-bit seed out of several whole numbers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU generators inside the block and give them back their states after it."""
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
