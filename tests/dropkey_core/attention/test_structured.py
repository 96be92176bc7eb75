"""Blocks and crosses of the patch grid: shapes, rates, prefix tokens, errors."""

import pytest
import torch

from dropkey_core.attention.structured import Block, Cross

CPU = torch.device("cpu")


def draw(unit, shape, ratio=0.3, seed=0, allowed=None):
    return unit.draw(shape, ratio, seed, dtype=torch.float32, device=CPU, allowed=allowed)


def lost(unit, shape, ratio=0.3, seed=0):
    return draw(unit, shape, ratio, seed) == -torch.inf


def test_a_seed_grows_into_a_block():
    """On 3 x 4 patches, size 2: the seed in row 1, column 0 of the 2 x 3 places."""
    seeds = torch.zeros(2, 3, dtype=torch.bool)
    seeds[1, 0] = True
    expected = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]).bool()
    assert torch.equal(Block(2).grow(seeds), expected)


def test_a_seed_grows_into_a_cross():
    """On 4 x 5 patches, size 2: the seed in row 1, column 0 of the 3 x 4 places."""
    seeds = torch.zeros(3, 4, dtype=torch.bool)
    seeds[1, 0] = True
    rows = torch.tensor([0, 1, 1, 0]).bool()
    columns = torch.tensor([1, 1, 0, 0, 0]).bool()
    assert torch.equal(Cross(2).grow(seeds), rows[:, None] | columns)


@pytest.mark.parametrize("unit", [Block(1), Block(2), Block(3), Cross(1), Cross(2)], ids=str)
def test_the_pattern_covers_the_area_it_is_said_to_cover(unit):
    seeds = torch.zeros(5 - unit.size + 1, 6 - unit.size + 1, dtype=torch.bool)
    seeds[1, 2] = True
    assert unit.grow(seeds).sum() == unit.area(5, 6)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (Block(1), 0.3),
        (Block(3), 0.3 * 196 / (9 * 144)),
        (Cross(1), 0.3 * 196 / (27 * 196)),
        (Cross(2), 0.3 * 196 / (2 * 26 * 169)),
    ],
)
def test_seed_probabilities_on_14_by_14(unit, expected):
    """d_block and d_cross with numbers put in."""
    assert unit.seed_probability(0.3, 14, 14) == pytest.approx(expected)


@pytest.mark.parametrize("unit", [Block(1), Block(2), Block(3), Cross(1), Cross(2)], ids=str)
def test_rate_of_every_patch(unit):
    """A patch stays if none of the seeds that reach it happens: 20,000 queries, 4.5 errors."""
    height, width, queries = 5, 7, 20_000
    rate = lost(type(unit)(unit.size, grid=(height, width)), (1, 1, queries, height * width))
    places = height - unit.size + 1, width - unit.size + 1
    reached = torch.zeros(height, width)
    for place in range(places[0] * places[1]):
        seeds = torch.zeros(places, dtype=torch.bool)
        seeds.view(-1)[place] = True
        reached += unit.grow(seeds)
    kept = (1 - unit.seed_probability(0.3, height, width)) ** reached
    standard_error = (kept * (1 - kept) / queries).sqrt()
    observed = rate[0, 0].double().mean(0).view(height, width)
    assert (abs(observed - (1 - kept)) < 4.5 * standard_error).all()


def test_share_that_is_lost_where_patterns_overlap():
    """What the documentation says of ratio 0.3 on 14 x 14 patches."""
    for unit in (Block(2), Block(3), Cross(1), Cross(2)):
        share = lost(unit, (1, 1, 2000, 196)).double().mean().item()
        assert 0.24 < share < 0.28, unit


def test_block_of_one_patch_is_dropkey():
    share = lost(Block(1), (1, 1, 5000, 25)).double().mean().item()
    assert abs(share - 0.3) < 4.5 * (0.21 / 125_000) ** 0.5


@pytest.mark.parametrize("make", [Block, Cross])
def test_prefix_tokens_are_never_dropped(make):
    rates = lost(make(2, num_prefix_tokens=2), (1, 2, 500, 18)).double().mean((0, 1, 2))
    assert (rates[:2] == 0).all()
    assert (rates[2:] > 0.1).all()


@pytest.mark.parametrize("make", [Block, Cross])
def test_every_query_of_every_head_draws_for_itself(make):
    drawn = lost(make(1), (2, 3, 4, 64))
    for axis in range(3):
        assert (drawn.diff(dim=axis) != 0).any()


@pytest.mark.parametrize("make", [Block, Cross])
def test_a_query_that_would_lose_every_key_keeps_them_all(make):
    """One pattern covers the whole grid, so a query loses everything or nothing."""
    allowed = torch.tensor([0.5, -torch.inf, 0.0, 0.0])
    mask = draw(make(2), (1, 1, 100, 4), ratio=0.9, allowed=allowed)
    assert torch.equal(mask, allowed.expand(1, 1, 100, 4))


@pytest.mark.parametrize(
    ("unit", "num_keys", "message"),
    [
        (Block(2), 15, "15 keys are not 0 prefix tokens and a square of patches; set grid="),
        (Block(2, num_prefix_tokens=1), 16, "16 keys are not 1 prefix tokens and a square"),
        (Cross(1, grid=(3, 5)), 16, "16 keys are not 0 prefix tokens and 3 x 5 patches"),
        (Block(1, num_prefix_tokens=5), 5, "5 keys are not 5 prefix tokens and a square"),
        (Block(4, grid=(3, 5)), 15, "size must be at most 3 on a grid of 3 x 5, got 4"),
    ],
)
def test_keys_that_do_not_fit_are_refused(unit, num_keys, message):
    with pytest.raises(ValueError, match=message):
        draw(unit, (1, 1, 2, num_keys))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="size must be at least 1 patch, got 0"):
        Block(0)
    with pytest.raises(ValueError, match="num_prefix_tokens must be at least 0, got -1"):
        Cross(1, num_prefix_tokens=-1)
