"""Every random draw is a function of the seed and a counter, so a run can stop and go on anywhere.

Nothing here keeps a state: order, augmentation and dropout of step n are the same whether steps
0..n-1 ran in this process or in one that was killed.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK = (1 << 64) - 1


def fold_seed(seed: int, *counters: int) -> int:
    """Mix ``counters`` into ``seed`` one by one and return 64 random-looking bits.

    Each is added and mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so
    neighbouring steps, ranks or positions get unrelated seeds, and (1, 2) differs from (2, 1).
    """
    state = _mix(seed & _MASK)
    for counter in counters:
        state = _mix(state ^ _mix((counter + 0x632BE59BD9B4E019) & _MASK))
    return state


def _mix(bits: int) -> int:
    bits = (bits + 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch, numpy and Python for one training step of one process."""
    folded = fold_seed(seed, step, rank)
    torch.manual_seed(folded)
    np.random.seed(folded & 0xFFFFFFFF)  # noqa: NPY002, models may use the global generator
    random.seed(folded)


@contextmanager
def sample_randomness(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block, and put its former state back after it."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that one also reaches for CUDA, in every loader process.
        torch.default_generator.manual_seed(seed)
        yield
