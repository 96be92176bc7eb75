"""Random bits of key masks: rates, independence, parts, steps; words against Python integers.

What is asked of ``KeyDraw`` is asked of the hash of ``flex``, too. "z" is a deviation in standard
errors; 4.5 of them happen once in 150,000 times.
"""

import dataclasses
import math

import pytest
import torch

from dropkey_core.attention import draw as draw_module
from dropkey_core.attention.draw import KeyDraw, Scratch, _random_thresholds
from dropkey_core.attention.flex import HashedKey
from dropkey_core.attention.patterns import MaskDraw

INF = torch.inf
CPU = torch.device("cpu")
SEED = 0x0123456789ABCDEF
# Variance that the keys of a query have in common: that of its rounding.
ROUNDING = {"draw": (0.5 / 256) ** 2, "hash": 0.0}
each_kind = pytest.mark.parametrize("kind", ROUNDING)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(shape, drop_ratio, seed=0):
    return KeyDraw.sample(shape, drop_ratio, generator(seed))


def dropped_entries(kind, shape, drop_ratio, seed=SEED):
    """Return 1 where a key is dropped, before queries that lost all of them get them back."""
    if kind == "draw":
        return (sample(shape, drop_ratio, seed).mask(torch.float32) == -INF).double()
    return HashedKey().dropped(MaskDraw(shape, drop_ratio, seed, CPU)).double()


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


@each_kind
@pytest.mark.parametrize("drop_ratio", [0.001, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.999])
def test_rate(kind, drop_ratio):
    dropped = dropped_entries(kind, (4, 4, 512, 512), drop_ratio)
    variance = drop_ratio * (1 - drop_ratio) / dropped.numel() + ROUNDING[kind] / (16 * 512)
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


@each_kind
@pytest.mark.parametrize("drop_ratio", [0.05, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_neighbours_and_seeds_are_independent(kind, drop_ratio):
    """Both are dropped with probability r^2: in batch, head, query, key; of two seeds.

    Keys that share a word of a draw are 1, 2 and 3 apart, those at its same place 4.
    """
    shape = (4, 4, 256, 256)
    dropped = dropped_entries(kind, shape, drop_ratio)
    places = [(axis, distance) for axis in (-2, -1) for distance in (1, 2, 3, 4, 8, 128)]
    pairs = [
        dropped.narrow(axis, distance, shape[axis] - distance)
        * dropped.narrow(axis, 0, shape[axis] - distance)
        for axis, distance in [(0, 1), (1, 1), *places]
    ]
    # torch's generator for CPUs takes the lower half of a seed, the hash all of it.
    upper = () if kind == "draw" else (SEED + 2**32, SEED ^ -(2**63))
    for other in (SEED + 1, SEED ^ 1, *upper):
        pairs.append(dropped * dropped_entries(kind, shape, drop_ratio, other))
    # A draw is in two pairs; those share no more than r^3, so the error is below this.
    standard_error = math.sqrt(drop_ratio**2 * (1 - drop_ratio) * (1 + 3 * drop_ratio))
    for both in pairs:
        z = (both.mean().item() - drop_ratio**2) / standard_error * math.sqrt(both.numel())
        assert abs(z) < 4.5


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("axis", ["keys", "queries"])
@pytest.mark.parametrize("drop_ratio", [0.1, 0.3, 0.5])
def test_no_two_keys_or_queries_are_correlated(kind, axis, drop_ratio):
    """All 523,776 pairs of 1,024, over 4,096 entries each: as far apart as chance, none further.

    Keys share a word over all queries, and queries two words over all keys. Were the product of
    words a sum, pairs would lie up to 34 standard errors apart.
    """
    shape = (1, 1, 4096, 1024) if axis == "keys" else (1, 1, 1024, 4096)
    entries = dropped_entries(kind, shape, drop_ratio)[0, 0]
    entries = entries if axis == "keys" else entries.T
    z = (entries - drop_ratio) / math.sqrt(drop_ratio * (1 - drop_ratio))
    z = (z.T @ z) / math.sqrt(len(entries))
    z = z[torch.triu(torch.ones(1024, 1024, dtype=torch.bool), diagonal=1)]
    assert abs(z.mean().item()) < 4.5 / math.sqrt(len(z))
    assert abs(z.square().mean().item() - 1) < 4.5 * math.sqrt(2 / len(z)) + 0.01
    assert z.abs().max() < 6.5  # at r = 0.1 the products are skewed: a little over a normal's 5.5


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


@each_kind
def test_corners_of_rectangles_are_independent(kind):
    """Their parity, where what is linear in the words would show: it ties the four together."""
    signs = 1.0 - 2.0 * dropped_entries(kind, (1, 1, 2048, 2048), 0.5)[0, 0]
    for down, right in ((1, 1), (1, 7), (4, 4), (64, 64), (5, 128), (512, 512)):
        product = signs[down:, right:] * signs[down:, :-right] * signs[:-down, right:]
        product = product * signs[:-down, :-right]
        assert abs(product.mean().item()) * math.sqrt(product.numel()) < 4.5


@each_kind
def test_every_batch_head_and_query_gets_its_own_keys(kind):
    rows = dropped_entries(kind, (4, 8, 64, 256), 0.3).flatten(0, 2)
    assert len(torch.unique(rows, dim=0)) == 4 * 8 * 64


def test_number_of_lost_keys_is_binomial():
    """Its variance over 4,096 rows of 1,000 keys, within 4.5 standard errors (2.2% each)."""
    counts = dropped_entries("draw", (4096, 1000), 0.3).sum(1)
    binomial = 1000 * 0.3 * 0.7
    rounding = 1000**2 * 0.8 * 0.2 / 256**2  # 256 * 0.3 = 76.8
    assert abs(counts.var().item() / (binomial + rounding) - 1) < 4.5 * math.sqrt(2 / 4096)


def test_a_part_is_a_part_of_the_whole():
    drawn = sample((2, 3, 50, 13), 0.4)
    whole = drawn.mask(torch.float32)
    where = (slice(1, 2), slice(0, 2), slice(20, 37))
    for num_keys in (1, 4, 6, 13):
        part = drawn.part(where, num_keys).mask(torch.float32)
        assert torch.equal(part, whole[where][..., :num_keys])


def test_steps_and_threads_make_no_difference(monkeypatch):
    drawn, threads = sample((3, 300, 301), 0.3), torch.get_num_threads()
    whole = drawn.mask(torch.float32)
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(drawn.mask(torch.float32), whole)
    finally:
        torch.set_num_threads(threads)
    drawn = sample((2, 3, 50, 13), 0.4)
    whole = drawn.mask(torch.float32)
    for step_size in (1, 100, 1000):
        monkeypatch.setattr(draw_module, "STEP_SIZE", step_size)
        assert torch.equal(drawn.mask(torch.float32), whole)


def test_scratch_is_used_again():
    drawn, scratch = sample((20, 30), 0.5), Scratch(CPU)
    first = drawn.mask(torch.float32, scratch)
    expected = first.clone()
    part = drawn.part((slice(0, 10),), 30).mask(torch.float32, scratch)
    assert part.data_ptr() == first.data_ptr()
    assert torch.equal(part, expected[:10])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1), (5,)])
def test_empty_and_tiny_shapes(shape):
    assert sample(shape, 0.5).mask(torch.float32).shape == shape
