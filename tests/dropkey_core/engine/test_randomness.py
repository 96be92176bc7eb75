import random

import numpy as np
import torch

from dropkey_core.engine.randomness import fold_seed, sample_randomness, seed_step


def test_counters_and_their_order_matter():
    seeds = {fold_seed(s, a, b) for s in range(8) for a in range(8) for b in range(8)}
    assert len(seeds) == 512
    assert fold_seed(3, 1, 2) == fold_seed(3, 1, 2)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert fold_seed(-1, 2**70) == fold_seed(-1, 2**70)


def test_bits_of_neighbouring_seeds_are_independent():
    bits = [bin(fold_seed(0, n) ^ fold_seed(0, n + 1)).count("1") for n in range(2000)]
    assert abs(np.mean(bits) - 32) < 0.5  # standard error of the mean is 4 / sqrt(2000) = 0.09


def draw():
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_step_seed_governs_all_three_generators():
    seed_step(5, step=3, rank=1)
    first = draw()
    draw()
    seed_step(5, step=3, rank=1)
    assert draw() == first
    for other in ((6, 3, 1), (5, 4, 1), (5, 3, 0)):
        seed_step(*other)
        assert not set(draw()) & set(first)


def test_sample_randomness_leaves_no_trace():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with sample_randomness(11):
        inside = torch.rand(1)
    assert torch.equal(torch.rand(2), expected)
    with sample_randomness(11):
        assert torch.equal(torch.rand(1), inside)
