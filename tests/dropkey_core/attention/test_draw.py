"""``KeyDraw``: rates, independence, parts, steps; its words against plain Python integers."""

import dataclasses
import math

import pytest
import torch

from dropkey_core.attention import draw as draw_module
from dropkey_core.attention.draw import KeyDraw, Scratch, _random_thresholds

INF = torch.inf
CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(shape, drop_ratio, seed=0):
    return KeyDraw.sample(shape, drop_ratio, generator(seed))


def dropped_entries(shape, drop_ratio, seed=0):
    return (sample(shape, drop_ratio, seed).mask(torch.float32) == -INF).double()


@pytest.mark.parametrize("drop_ratio", [0.3, 0.8])
def test_mask_follows_the_formula(drop_ratio):
    """Every entry worked out from the drawn words in Python, whose integers have no width."""
    drawn = sample((2, 3, 7), drop_ratio)
    mask = drawn.mask(torch.float64)
    for row in [(0, 0), (0, 2), (1, 1)]:
        a, b, threshold = (x[row].item() for x in (drawn.factors, drawn.offsets, drawn.thresholds))
        for key in range(7):
            x = (a * drawn.columns[key // 4].item() + b) % 2**32
            x ^= x >> 16
            x = x * 0x85EBCA6B % 2**32
            x ^= x >> 16
            byte = x.to_bytes(4, "little")[key % 4]
            signed = byte - 256 if byte > 127 else byte
            is_below = signed < threshold
            assert (mask[row][key] == -INF) == (is_below if drop_ratio < 0.5 else not is_below)


@pytest.mark.parametrize("drop_ratio", [0.001, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.999])
def test_rate(drop_ratio):
    """A million entries within 4.5 standard errors, which one seed in 150,000 would miss."""
    dropped = dropped_entries((1024, 1024), drop_ratio)
    # Independent entries, plus the rounding that a row shares: variance at most (0.5 / 256)^2.
    variance = drop_ratio * (1 - drop_ratio) / 1024**2 + (0.5 / 256) ** 2 / 1024
    assert abs(dropped.mean().item() - drop_ratio) < 4.5 * math.sqrt(variance)


@pytest.mark.parametrize("drop_ratio", [0.001, 0.1, 0.3, 1 / 3, 0.5])
def test_rate_has_no_bias(drop_ratio):
    """The mean threshold of 2^22 rows, within 4.5 standard errors; these are far below 2^-16.

    A threshold that were simply rounded would be off by up to 2^-9. The bytes it is compared with
    are uniform because the offset is: the steps that follow map words one to one.
    """
    rows = 2**22
    thresholds = _random_thresholds((rows, 1), drop_ratio, generator())
    share = (thresholds.double().mean().item() + 128) / 256
    standard_error = 0.5 / 256 / math.sqrt(rows)
    assert 4.5 * standard_error < 2**-16
    assert abs(share - drop_ratio) < 4.5 * standard_error


def test_bytes_are_uniform():
    """Each of the 256 values of each of the 4 bytes of 2^20 words, by their chi-square.

    It has a mean of 1020 and a standard deviation of 45; 4.5 of them above or below.
    """
    drawn = sample((1024, 4096), 0.3)
    noise = drawn._noise(drawn.factors, drawn.offsets, Scratch(CPU)).long() + 128
    counts = [torch.bincount(noise[:, byte::4].flatten(), minlength=256) for byte in range(4)]
    expected = 2**20 / 256
    chi_square = sum(((count - expected) ** 2 / expected).sum().item() for count in counts)
    assert abs(chi_square - 1020) < 4.5 * 45


@pytest.mark.parametrize("drop_ratio", [0.05, 0.3, 0.7])
def test_neighbours_are_independent(drop_ratio):
    """Pairs of entries, side by side and one above the other, within 4.5 standard errors.

    Keys that share a word are 1, 2 and 3 apart, those at the same place of their words 4.
    """
    dropped = dropped_entries((1024, 1024), drop_ratio)
    expected = drop_ratio**2
    standard_error = math.sqrt(expected * (1 - expected) / dropped.numel())
    for distance in (1, 2, 3, 4, 8, 512):
        for pairs in (
            dropped[:, distance:] * dropped[:, :-distance],
            dropped[distance:] * dropped[:-distance],
        ):
            assert abs(pairs.mean().item() - expected) < 5 * standard_error


@pytest.mark.parametrize("axis", [0, 1])
def test_all_pairs_of_rows_and_of_columns_are_independent(axis):
    """Correlations of all 500,000 pairs: as spread as chance has it, and none that stands out.

    Of 1,024 entries each: standard deviation 1/32 to within 0.5% (5 of its own standard errors),
    and none above 6.5 of them, where chance would reach one time in 10,000.
    """
    dropped = dropped_entries((1024, 1024), 0.3)
    dropped = dropped if axis == 0 else dropped.T
    correlations = torch.corrcoef(dropped)[tuple(torch.triu_indices(1024, 1024, 1))]
    assert abs(correlations.std().item() * 32 - 1) < 0.005
    assert correlations.abs().max().item() * 32 < 6.5


def test_columns_whose_words_differ_in_one_bit_are_independent():
    """Because each query multiplies them with a word of its own; over 2^16 queries, 5 deviations.

    Not for the highest bits, by which a product with an odd number moves little: those differ
    alone, in two words that are drawn, once in 2^25 pairs or less.
    """
    drawn = sample((2**16, 4 * 26), 0.3)
    columns = torch.tensor([0] + [1 << bit for bit in range(25)], dtype=torch.int32)
    mask = dataclasses.replace(drawn, columns=columns).mask(torch.float32)
    correlations = torch.corrcoef((mask == -INF).double().T)
    correlations.fill_diagonal_(0)
    assert correlations.abs().max().item() < 5.5 / 2**8


def test_rectangles_are_independent():
    """The parity of the corners of rectangles, where what is linear in the words would show.

    a c + b of two queries and two columns are tied by one equation; nothing may be left of it.
    """
    signs = 1 - 2 * dropped_entries((1024, 1024), 0.5)
    for step in (1, 4, 64, 512):
        corners = signs[step:, step:] * signs[:-step, :-step]
        corners = corners * signs[step:, :-step] * signs[:-step, step:]
        assert abs(corners.mean().item()) < 4.5 / math.sqrt(corners.numel())


def test_number_of_lost_keys_is_binomial():
    """Its variance over 4,096 rows of 1,000 keys, within 4.5 standard errors (2.2% each)."""
    counts = dropped_entries((4096, 1000), 0.3).sum(1)
    binomial = 1000 * 0.3 * 0.7
    rounding = 1000**2 * 0.8 * 0.2 / 256**2  # 256 * 0.3 = 76.8
    assert abs(counts.var().item() / (binomial + rounding) - 1) < 4.5 * math.sqrt(2 / 4096)


def test_seeds_draw_independently():
    first, second = (dropped_entries((512, 512), 0.3, seed) for seed in (1, 2))
    correlation = torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1]
    assert abs(correlation.item()) < 4.5 / 512


def test_a_part_is_a_part_of_the_whole():
    drawn = sample((2, 3, 50, 13), 0.4)
    whole = drawn.mask(torch.float32)
    where = (slice(1, 2), slice(0, 2), slice(20, 37))
    assert torch.equal(drawn[where].mask(torch.float32), whole[where])


@pytest.mark.parametrize("step_size", [1, 100, 1000])
def test_steps_make_no_difference(monkeypatch, step_size):
    drawn = sample((2, 3, 50, 13), 0.4)
    whole = drawn.mask(torch.float32)
    monkeypatch.setattr(draw_module, "STEP_SIZE", step_size)
    assert torch.equal(drawn.mask(torch.float32), whole)


def test_threads_make_no_difference():
    threads = torch.get_num_threads()
    masks = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            masks.append(sample((3, 300, 301), 0.3).mask(torch.float32))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_scratch_is_used_again():
    drawn, scratch = sample((20, 30), 0.5), Scratch(CPU)
    first = drawn.mask(torch.float32, scratch)
    expected = first.clone()
    part = drawn[slice(0, 10),].mask(torch.float32, scratch)
    assert part.data_ptr() == first.data_ptr()
    assert torch.equal(part, expected[:10])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1), (5,)])
def test_empty_and_tiny_shapes(shape):
    assert sample(shape, 0.5).mask(torch.float32).shape == shape
