"""What is dropped: keys shared over heads and queries, vanilla dropout, DropAttention."""

import math
import pickle

import pytest
import torch

from dropkey_core import drop_key_attention
from dropkey_core.attention.functional import drop_key_softmax
from dropkey_core.attention.structured import Block, Cross
from dropkey_core.attention.units import (
    UNITS,
    DropAttention,
    Key,
    find_unit,
    random_events,
    spread_right,
)

INF = torch.inf
SHAPE = (2, 3, 5, 16)


def random_logits(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or SHAPE, generator=generator, dtype=dtype)


def dropped(unit, logits, ratio=0.4):
    torch.manual_seed(1)
    return drop_key_softmax(logits, ratio, unit=unit) == 0


@pytest.mark.parametrize(
    ("shared_over", "axes"),
    [((), []), (("heads",), [1]), (("queries",), [2]), (("heads", "queries"), [1, 2])],
)
@pytest.mark.parametrize("make", [Key, DropAttention])
def test_what_shares_a_draw_loses_the_same_keys(make, shared_over, axes):
    lost = dropped(make(shared_over=shared_over), random_logits())
    for axis in range(3):
        same = (lost == lost.narrow(axis, 0, 1)).all()
        assert same == (axis in axes)


def test_shared_keys_go_with_masks_of_more_axes():
    """Every head has a mask of its own, the draw is shared: what is lost is the union of both."""
    allowed = torch.zeros(SHAPE).masked_fill(torch.rand(SHAPE) < 0.2, -INF)
    mask = Key(("heads",)).draw(
        SHAPE, 0.4, 7, dtype=torch.float32, device=torch.device("cpu"), allowed=allowed
    )
    drawn = Key(("heads",)).draw(
        SHAPE, 0.4, 7, dtype=torch.float32, device=torch.device("cpu"), allowed=None
    )
    assert drawn.shape == (2, 1, 5, 16)
    expected = drawn + allowed
    bare = (expected == -INF).all(-1, keepdim=True)
    assert torch.equal(mask, torch.where(bare, allowed, expected))


def test_key_is_a_softmax_over_what_is_kept():
    logits = random_logits()
    torch.manual_seed(1)
    weights = drop_key_softmax(logits, 0.4)
    kept = logits.exp() * (weights != 0)
    torch.testing.assert_close(weights, kept / kept.sum(-1, keepdim=True))


def test_drop_attention_has_dropkeys_values_and_other_gradients():
    """Forward: kept weights over their sum. Backward: that sum is a constant.

    By hand for a row p of kept weights k and their sum s: d(k_j / s) / dp_j = 1 / s, while DropKey
    has 1 / s - k_j / s^2.
    """
    weights = random_logits(1, 1, 1, 6, dtype=torch.float64).softmax(-1).requires_grad_()
    torch.manual_seed(1)
    out = DropAttention().drop(weights, 0.4)
    kept = weights.detach() * (out != 0)
    total = kept.sum()
    assert 0 < (out == 0).sum() < 6
    torch.testing.assert_close(out.detach(), kept / total)
    (gradient,) = torch.autograd.grad(out.sum(), weights)
    torch.testing.assert_close(gradient, (out != 0).double() / total)


@pytest.mark.parametrize("unit", ["element", "column"])
def test_a_row_that_loses_everything_keeps_everything(unit):
    logits = random_logits(1, 2, 200, 2).requires_grad_()
    torch.manual_seed(1)
    weights = drop_key_softmax(logits, 0.9, unit=unit)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 200))
    whole = (weights != 0).all(-1)
    torch.testing.assert_close(weights[whole], logits.softmax(-1)[whole])
    weights.square().sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("window", [1, 2, 5])
def test_drop_attention_windows(window):
    """Lost keys are runs of at least a window, but at the right edge; their share is as computed.

    A key is kept if none of the ``window`` starts that reach it happens. 200,000 runs are not
    independent within a row: 4.5 standard errors, widened by sqrt(window).
    """
    length, ratio = 40, 0.3
    unit = DropAttention(window=window)
    torch.manual_seed(0)
    lost = unit._dropped(torch.ones(1, 1, 5000, length), ratio)[0, 0]
    reach = torch.arange(length).add(1).clamp(max=window)
    expected = 1 - (1 - ratio / window) ** reach
    standard_error = (expected * (1 - expected) / 5000).sqrt()
    assert (abs(lost.double().mean(0) - expected) < 4.5 * standard_error).all()
    share_error = math.sqrt(ratio * (1 - ratio) * window / lost.numel())
    assert abs(lost.double().mean() - expected.mean()) < 4.5 * share_error


def test_spread_right_by_hand():
    starts = torch.tensor([1, 0, 0, 0, 0, 1]).bool()
    assert spread_right(starts, 1).tolist() == starts.tolist()
    assert spread_right(starts, 3).int().tolist() == [1, 1, 1, 0, 0, 1]
    assert spread_right(starts, 9).all()


def test_random_events_follow_their_seed():
    first, again, other = (
        random_events((50,), 0.5, seed, torch.device("cpu")) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


ALL_UNITS = [*UNITS, Key(("heads",)), Key(("queries",)), DropAttention(window=2)]
ALL_UNITS += [Block(2), Cross(1), Block(2, grid=(3, 5), num_prefix_tokens=1)]


@pytest.mark.parametrize("unit", ALL_UNITS, ids=str)
def test_every_unit_in_attention(unit):
    """One seed: the same output with weights and without; finite gradients; nothing in eval."""
    query, key, value = (random_logits(2, 3, 16, 4, seed=i).requires_grad_() for i in range(3))
    torch.manual_seed(1)
    out, weights = drop_key_attention(query, key, value, 0.4, unit=unit, need_weights=True)
    assert (weights == 0).any()
    torch.manual_seed(1)
    again = drop_key_attention(query, key, value, 0.4, unit=unit)
    torch.testing.assert_close(again, out, atol=1e-6, rtol=1e-5)
    for gradient in torch.autograd.grad(again.square().sum(), (query, key, value)):
        assert gradient.isfinite().all()
        assert (gradient != 0).any()
    plain = drop_key_attention(query, key, value, 0.0)
    assert torch.equal(drop_key_attention(query, key, value, 0.4, unit=unit, training=False), plain)
    assert not torch.allclose(again, plain)


@pytest.mark.parametrize("unit", ALL_UNITS, ids=str)
def test_every_unit_is_a_value(unit):
    """Equal after pickling, and repr says how to make it."""
    unit = find_unit(unit)
    assert pickle.loads(pickle.dumps(unit)) == unit
    assert type(unit).__name__ in repr(unit)


@pytest.mark.parametrize("training", [True, False])
def test_softmax_of_nothing_is_zero(training):
    logits = random_logits(1, 1, 3, 4)
    logits[..., 1, :] = -INF
    logits.requires_grad_()
    weights = drop_key_softmax(logits, 0.5, training=training)
    assert (weights[0, 0, 1] == 0).all()
    torch.testing.assert_close(weights.sum(-1)[0, 0, ::2], torch.ones(2))
    weights.square().sum().backward()
    assert (logits.grad[0, 0, 1] == 0).all()
    assert logits.grad.isfinite().all()


def test_inference_takes_the_place_of_the_softmax_in_evaluation_only():
    seen = []

    def uniform(logits, drop_ratio):
        seen.append(drop_ratio)
        return torch.full_like(logits, 1 / logits.shape[-1])

    query, value = random_logits(1, 1, 5, 4), random_logits(1, 1, 6, 4, seed=1)
    given = {"inference": uniform, "training": False}
    out = drop_key_attention(query, value, value, 0.3, **given)
    torch.testing.assert_close(out, value.mean(-2, keepdim=True).expand(1, 1, 5, 4))
    assert seen == [0.3]
    plain = drop_key_attention(query, value, value, 0.0, **given)
    assert torch.equal(plain, drop_key_attention(query, value, value, 0.0))
    drop_key_attention(query, value, value, 0.3, inference=uniform, training=True)
    assert seen == [0.3]
    with pytest.raises(ValueError, match=r'inference must be None for unit Weight.*"key"'):
        drop_key_attention(query, value, value, 0.3, unit="weight", **given)


@pytest.mark.parametrize("bad", [("rows",), "heads", ("heads", "batch")])
def test_unknown_sharing_is_refused(bad):
    with pytest.raises(ValueError, match="shared_over must be a tuple of 'heads' and 'queries'"):
        Key(shared_over=bad)


def test_window_below_one_is_refused():
    with pytest.raises(ValueError, match="window must be at least 1 key, got 0"):
        DropAttention(window=0)


@pytest.mark.parametrize("bad", ["head", 3, None])
def test_unknown_units_are_refused(bad):
    with pytest.raises(ValueError, match=f"unit must be one of key, .*; got {bad!r}"):
        find_unit(bad)


def test_no_keys_at_all_give_no_weights():
    logits = torch.zeros(2, 3, 4, 0, requires_grad=True)
    for training in (True, False):
        assert drop_key_softmax(logits, 0.0, training=training).shape == (2, 3, 4, 0)
