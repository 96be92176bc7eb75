"""What falls together: keys, windows, blocks, crosses; rates, prefix tokens, sharing, errors."""

from functools import partial

import pytest
import torch

from dropkey_core.attention.patterns import Block, Cross, Key, MaskDraw, Window, spread_right
from dropkey_core.attention.places import BeforeSoftmax

CPU = torch.device("cpu")
GRID_PATTERNS = pytest.mark.parametrize(
    "pattern", [Block(1), Block(2), Block(3), Cross(1), Cross(2)], ids=str
)


def draw(pattern, shape, ratio=0.3, seed=0, allowed=None):
    """The additive mask of DropKey."""
    place = BeforeSoftmax(pattern)
    return place.mask(MaskDraw(shape, ratio, seed, CPU), torch.float32, allowed)


def lost(pattern, shape, ratio=0.3, seed=0):
    return pattern.dropped(MaskDraw(shape, ratio, seed, CPU))


def assert_rates(pattern, observed, ratio=0.3, queries=20_000):
    """Each key stays as often as said, within 4.5 standard errors."""
    kept = torch.as_tensor(pattern.keep_probability(ratio, observed.shape[-1])).double()
    standard_error = (kept * (1 - kept) / queries).sqrt()
    difference = observed.double().mean((0, 1, 2)) - (1 - kept)
    assert (abs(difference) <= 4.5 * standard_error).all()


def test_a_seed_grows_into_a_block_or_a_cross():
    """On 4 x 5 patches, size 2: the seed in row 1, column 0 of the 3 x 4 places."""
    seeds = torch.zeros(3, 4, dtype=torch.bool)
    seeds[1, 0] = True
    rows = torch.tensor([0, 1, 1, 0]).bool()
    columns = torch.tensor([1, 1, 0, 0, 0]).bool()
    assert torch.equal(Block(2).grow(seeds), rows[:, None] & columns)
    assert torch.equal(Cross(2).grow(seeds), rows[:, None] | columns)


@GRID_PATTERNS
def test_the_pattern_covers_the_area_it_is_said_to_cover(pattern):
    seeds = torch.zeros(5 - pattern.size + 1, 6 - pattern.size + 1, dtype=torch.bool)
    seeds[1, 2] = True
    assert pattern.grow(seeds).sum() == pattern.area(5, 6)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Block(1), 0.3),
        (Block(3), 0.3 * 196 / (9 * 144)),
        (Cross(1), 0.3 * 196 / (27 * 196)),
        (Cross(2), 0.3 * 196 / (2 * 26 * 169)),
    ],
)
def test_seed_probabilities_on_14_by_14(pattern, expected):
    """d_block and d_cross with numbers put in."""
    assert pattern.seed_probability(0.3, 14, 14) == pytest.approx(expected)


@GRID_PATTERNS
def test_every_patch_is_reached_by_as_many_seeds_as_said(pattern):
    """Against all seeds, one after another."""
    height, width = 5, 7
    places = height - pattern.size + 1, width - pattern.size + 1
    reached = torch.zeros(height, width, dtype=torch.int64)
    for place in range(places[0] * places[1]):
        seeds = torch.zeros(places, dtype=torch.bool)
        seeds.view(-1)[place] = True
        reached += pattern.grow(seeds)
    assert torch.equal(pattern.num_reaching(height, width), reached)


@GRID_PATTERNS
def test_rate_of_every_patch(pattern):
    pattern = type(pattern)(pattern.size, grid=(5, 7), num_prefix_tokens=2)
    kept = pattern.keep_probability(0.3, 37)
    missed = 1 - pattern.seed_probability(0.3, 5, 7)
    assert kept[:2].tolist() == [1.0, 1.0]
    torch.testing.assert_close(kept[2:], missed ** pattern.num_reaching(5, 7).flatten())
    assert_rates(pattern, lost(pattern, (1, 1, 20_000, 37)))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_windows_are_runs_and_fall_as_often_as_said(length):
    """A key is kept if none of the ``length`` starts that reach it happens."""
    drawn = lost(Window(length), (1, 1, 20_000, 40))
    assert_rates(Window(length), drawn)
    for row in drawn[0, 0, :50].int().tolist():
        runs = "".join(map(str, row)).split("0")
        assert all(len(run) in (0, *range(length, 41)) for run in runs[:-1])


def test_keys_fall_as_often_as_said():
    assert_rates(Key(), lost(Key(), (1, 2, 10_000, 8)))


@pytest.mark.parametrize("num_queries", [8, 5])
def test_keys_that_are_never_dropped(num_queries):
    """The others fall as in the plain draw of the same seed, on every way a mask is made."""
    pattern, shape = Key(keep_self=True, num_prefix_tokens=2), (50, 40, num_queries, 8)
    spared = torch.arange(8) < 2
    spared = spared | torch.eye(8, dtype=torch.bool) if num_queries == 8 else spared
    for seed in (0, None):  # with a seed, and as compiled code draws
        torch.manual_seed(1)
        plain = lost(Key(), shape, seed=seed)
        torch.manual_seed(1)
        assert torch.equal(lost(pattern, shape, seed=seed), plain & ~spared)
    mask = draw(pattern, shape) == -torch.inf
    allowed = draw(pattern, shape, allowed=torch.zeros(num_queries, 8)) == -torch.inf
    assert torch.equal(mask, allowed)
    kept = torch.as_tensor(pattern.keep_probability(0.3, 8, num_queries))
    assert torch.equal(kept, torch.where(spared, 1.0, 1.0 - torch.tensor(0.3)))
    error = 4.5 * (kept * (1 - kept) / 2000).sqrt() + 1e-6
    assert (abs(mask.double().mean((0, 1)) - (1 - kept)) <= error).all()


@pytest.mark.parametrize(
    ("shared_over", "axes"),
    [((), []), (("heads",), [1]), (["queries"], [2]), (("heads", "queries"), [1, 2])],
)
@pytest.mark.parametrize("make", [Key, partial(Window, 2), partial(Block, 1), partial(Cross, 1)])
def test_what_shares_a_draw_loses_the_same_keys(make, shared_over, axes):
    shape = (2, 3, 5, 16)
    drawn = (draw(make(shared_over=shared_over), shape) == -torch.inf).expand(shape)
    for axis in range(3):
        same = (drawn == drawn.narrow(axis, 0, 1)).all()
        assert same == (axis in axes)


def test_shared_keys_go_with_masks_of_more_axes():
    """Every head has a mask of its own, the draw is shared: what is lost is the union of both."""
    shape, shared = (2, 3, 5, 16), Key(shared_over=("heads",))
    allowed = torch.zeros(shape).masked_fill(torch.rand(shape) < 0.2, -torch.inf)
    drawn = draw(shared, shape, 0.4, seed=7)
    assert drawn.shape == (2, 1, 5, 16)
    expected = drawn + allowed
    bare = (expected == -torch.inf).all(-1, keepdim=True)
    mask = draw(shared, shape, 0.4, seed=7, allowed=allowed)
    assert torch.equal(mask, torch.where(bare, allowed, expected))


def test_spread_right_by_hand():
    starts = torch.tensor([1, 0, 0, 0, 0, 1]).bool()
    assert spread_right(starts, 1).tolist() == starts.tolist()
    assert spread_right(starts, 3).int().tolist() == [1, 1, 1, 0, 0, 1]
    assert spread_right(starts, 9).all()


def test_events_follow_their_seed():
    first, again, other = (
        MaskDraw((1, 1), 0.5, seed, CPU).events((50,), 0.5) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_share_that_is_lost_where_patterns_overlap():
    """What the documentation says of ratio 0.3 on 14 x 14 patches."""
    for pattern in (Block(2), Block(3), Cross(1), Cross(2)):
        share = lost(pattern, (1, 1, 2000, 196)).double().mean().item()
        assert 0.24 < share < 0.28, pattern


@pytest.mark.parametrize("make", [Block, Cross])
def test_a_query_that_would_lose_every_key_keeps_them_all(make):
    """One pattern covers the whole grid, so a query loses everything or nothing."""
    allowed = torch.tensor([0.5, -torch.inf, 0.0, 0.0])
    mask = draw(make(2), (1, 1, 100, 4), ratio=0.9, allowed=allowed)
    assert torch.equal(mask, allowed.expand(1, 1, 100, 4))


@pytest.mark.parametrize(
    ("pattern", "num_keys", "message"),
    [
        (Block(2), 15, "15 keys are not 0 prefix tokens and a square of patches; set grid="),
        (Block(2, num_prefix_tokens=1), 16, "16 keys are not 1 prefix tokens and a square"),
        (Cross(1, grid=(3, 5)), 16, "16 keys are not 0 prefix tokens and 3 x 5 patches"),
        (Block(1, num_prefix_tokens=5), 5, "5 keys are not 5 prefix tokens and a square"),
        (Block(4, grid=(3, 5)), 15, "size must be at most 3 on a grid of 3 x 5, got 4"),
    ],
)
def test_keys_that_do_not_fit_are_refused(pattern, num_keys, message):
    with pytest.raises(ValueError, match=message):
        draw(pattern, (1, 1, 2, num_keys))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window(0), r"length must be at least 1 key, .* as in Window\(length=3\), got 0"),
        (lambda: Window("3"), r"length must be at least 1 key, a whole number .*, got '3'"),
        (lambda: Block(0), r"size must be at least 1 patch, .* as in Block\(size=2\), got 0"),
        (lambda: Block(2.5), r"size must .* a whole number as in Block\(size=2\), got 2\.5"),
        (lambda: Cross(True), r"size must .* a whole number as in Cross\(size=2\), got True"),
        (lambda: Cross(1, num_prefix_tokens=-1), "num_prefix_tokens must be at least 0, .* got -1"),
        (lambda: Key(num_prefix_tokens=1.0), r"num_prefix_tokens must .*, got 1\.0"),
        (
            lambda: Key(shared_over=("rows",)),
            "shared_over must be a tuple of 'heads' and 'queries'",
        ),
        (lambda: Key(shared_over="heads"), r"shared_over must be a tuple .*, got 'heads'"),
        (lambda: Block(2, shared_over=("heads", "batch")), "shared_over must .* 'batch'"),
        (lambda: Block(3, grid=4), r"grid must be two .* Block\(size=3, grid=\(14, 14\)\), got 4"),
        (lambda: Block(3, grid=(4, 0)), r"grid must be two whole numbers \(h, w\), .* \(4, 0\)"),
        (lambda: Cross(3, grid=(4, 5, 6)), r"grid must be two .*, got \(4, 5, 6\)"),
        (
            lambda: Key(keep_self=True, shared_over=("queries",)),
            "keep_self must be False where all queries share a draw",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_window_longer_than_the_keys_is_refused():
    assert lost(Window(17), (1, 1, 2, 17)).shape == (1, 1, 2, 17)
    with pytest.raises(ValueError, match=r"length must be at most the number of keys, 17, got .*9"):
        lost(Window(99), (1, 1, 2, 17))


def test_a_grid_may_be_a_list_as_a_yaml_has_it():
    assert Block(2, grid=[3, 5]) == Block(2, grid=(3, 5))


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("pattern", [Key(), Block(3), Window(3)], ids=str)
def test_the_default_type_of_tensors_does_not_change_what_is_drawn(pattern, seed):
    """A bfloat16 number would be below 1/120 more often, for it has 256 values only."""
    shape, masks = (2, 4, 36, 36), []
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        torch.manual_seed(1)
        try:
            masks.append(draw(pattern, shape, 1 / 120, seed))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*masks)
