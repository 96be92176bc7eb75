"""Random key masks: seeds, queries that would lose every key, what callers give."""

import pytest
import torch

from dropkey_core.attention.masks import additive_mask, draw_seed, random_key_mask

INF = torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("drop_ratio", [0.0, 0.3, 0.9])
def test_entries_are_zero_or_minus_inf(dtype, drop_ratio):
    mask = random_key_mask((1, 2, 3, 50), drop_ratio, 0, dtype=dtype)
    assert mask.dtype == dtype
    assert ((mask == 0) | (mask == -INF)).all()
    assert (mask == -INF).any() == (drop_ratio > 0)


def test_seeds_follow_torch_and_use_all_bits():
    torch.manual_seed(0)
    seeds = [draw_seed() for _ in range(200)]
    torch.manual_seed(0)
    assert seeds == [draw_seed() for _ in range(200)]
    assert len(set(seeds)) == 200
    for bit in range(64):
        assert 50 < sum(seed >> bit & 1 for seed in seeds) < 150


@pytest.mark.parametrize("num_keys", [1, 2, 3])
def test_a_query_that_would_lose_every_key_keeps_them_all(num_keys):
    mask = random_key_mask((1, 1, 1000, num_keys), 0.9, 0)
    assert (mask == 0).any(-1).all()
    # With 3 keys a full row comes from 0.1^3 (nothing lost) + 0.9^3 (all lost) = 0.73 of the
    # queries; 0.06 is 4 standard errors.
    expected = 1.0 if num_keys == 1 else 0.1**num_keys + 0.9**num_keys
    assert abs((mask == 0).all(-1).double().mean().item() - expected) < 0.06


def test_such_a_query_gets_back_only_what_it_was_allowed():
    """The same with a bias on key 0, keys 2 and 3 forbidden, and query 4 forbidden everything."""
    allowed = torch.tensor([1.5, 0.0, -INF, -INF]).repeat(1, 1, 1000, 1)
    allowed[:, :, 4] = -INF
    mask = random_key_mask((1, 1, 1000, 4), 0.9, 0, allowed=allowed)[0, 0]
    possible = torch.tensor([[1.5, 0, -INF, -INF], [1.5, -INF, -INF, -INF], [-INF, 0, -INF, -INF]])
    others = torch.cat((mask[:4], mask[5:]))
    assert (others[:, None] == possible).all(-1).any(-1).all()
    assert (mask[4] == -INF).all()


def test_one_query_with_few_keys_among_many_is_looked_after():
    """Query 0 may attend to one key only, which it would lose nine times in ten."""
    allowed = torch.zeros(1, 1, 3, 1000)
    allowed[..., 0, 1:] = -INF
    for seed in range(20):
        mask = random_key_mask((1, 1, 3, 1000), 0.9, seed, allowed=allowed)
        assert mask[0, 0, 0, 0] == 0


def test_looking_for_such_queries_costs_nothing_where_there_are_none(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "amax", None)  # fails if it looks
    random_key_mask((2, 8, 100, 100), 0.3, 0)
    random_key_mask((1, 1, 1, 100), 0.3, 0, allowed=torch.zeros(1, 1, 1, 100))
    with pytest.raises(TypeError):
        random_key_mask((2, 8, 100, 10), 0.3, 0)


def test_additive_mask_by_hand():
    keep = torch.tensor([[True, True, False], [True, False, True]])
    padding = torch.tensor([[False, False, True]])
    expected = torch.tensor([[0.0, 0.0, -INF], [0.0, -INF, -INF]])
    merged = additive_mask(keep, padding, torch.float32)
    assert torch.equal(merged, expected.view(1, 1, 2, 3))
    bias = torch.tensor([[0.5, -1.0, 2.0]])
    merged = additive_mask(bias, padding, torch.float64)
    assert torch.equal(
        merged, torch.tensor([0.5, -1.0, -INF], dtype=torch.float64).view(1, 1, 1, 3)
    )


def test_no_mask_where_nothing_is_masked():
    assert additive_mask(None, None, torch.float32) is None
    assert additive_mask(None, torch.zeros(2, 3, dtype=torch.bool), torch.float32) is None


@pytest.mark.parametrize("name", ["attn_mask", "key_padding_mask"])
def test_integer_masks_are_refused(name):
    given = {"attn_mask": None, "key_padding_mask": None, name: torch.ones(2, 3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=f"{name} must be bool or floating, got torch.int64"):
        additive_mask(**given, dtype=torch.float32)
