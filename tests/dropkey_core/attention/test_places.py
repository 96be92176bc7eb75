"""Where dropping acts: DropKey, dropout single and structured, DropAttention."""

import pickle

import pytest
import torch

from dropkey_core import drop_key_attention
from dropkey_core.attention.functional import drop_key_softmax
from dropkey_core.attention.masks import draw_seed
from dropkey_core.attention.patterns import Block, Cross, Key, MaskDraw, Window
from dropkey_core.attention.places import (
    UNITS,
    AfterSoftmax,
    BeforeSoftmax,
    Renormalised,
    find_unit,
)

INF = torch.inf
SHAPE = (2, 3, 5, 16)


def random_logits(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or SHAPE, generator=generator, dtype=dtype)


def test_drop_attention_has_dropkeys_values_and_other_gradients():
    """Forward: kept weights over their sum. Backward: that sum is a constant.

    By hand for a row p of kept weights k and their sum s: d(k_j / s) / dp_j = 1 / s, while DropKey
    has 1 / s - k_j / s^2.
    """
    weights = random_logits(1, 1, 1, 6, dtype=torch.float64).softmax(-1).requires_grad_()
    torch.manual_seed(1)
    out = Renormalised().drop(weights, 0.4)
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


PATTERNS = [Key(), Key(shared_over=("queries",)), Window(3), Block(3), Block(5), Cross(1), Cross(3)]
PATTERNS += [Block(2, grid=(6, 10), num_prefix_tokens=4), Key(num_prefix_tokens=3)]
each_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)


def explicit_mask(pattern, shape, ratio):
    """What the next call drops, drawn with the seed that it will draw."""
    torch.manual_seed(1)
    lost = pattern.dropped(
        MaskDraw(pattern.shared_shape(shape), ratio, draw_seed(), torch.device("cpu"))
    )
    torch.manual_seed(1)
    return lost.expand(shape)


@each_pattern
@pytest.mark.parametrize("place", [BeforeSoftmax, AfterSoftmax, Renormalised])
def test_every_place_against_an_explicit_mask(place, pattern):
    """Before the softmax it is one over the keys that are left, and renormalised the same values.

    After it dropped weights are 0, the others divided by how likely they stay.
    """
    logits = random_logits(2, 3, 5, 64, dtype=torch.float64)
    torch.manual_seed(1)
    weights = drop_key_softmax(logits, 0.3, unit=place(pattern))
    if place is BeforeSoftmax and isinstance(pattern, Key):  # drawn in another way
        lost = weights == 0
    elif place is AfterSoftmax and pattern == Key():
        torch.manual_seed(1)
        lost = torch.nn.functional.dropout(torch.ones(logits.shape), 0.3) == 0
    else:
        lost = explicit_mask(pattern, tuple(logits.shape), 0.3)
    assert lost.any(-1).float().mean() > 0.2
    kept = logits.softmax(-1) * ~lost
    share = torch.as_tensor(pattern.keep_probability(0.3, 64)).double()
    expected = kept / (share if place is AfterSoftmax else kept.sum(-1, keepdim=True))
    torch.testing.assert_close(weights, expected)


@each_pattern
def test_weights_after_dropout_are_on_average_what_they_were(pattern):
    """Mean of 20,000 queries: within 4.5 standard errors of each of the 64 weights."""
    p = random_logits(1, 1, 1, 64, dtype=torch.float64).softmax(-1)
    torch.manual_seed(0)
    # Windows of one query overlap, and queries that share a draw are one: draw per sequence.
    dropped = AfterSoftmax(pattern).drop(p.expand(20_000, 1, 1, 64), 0.3)
    keep = torch.as_tensor(pattern.keep_probability(0.3, 64)).double()
    standard_error = p * ((1 - keep) / keep / 20_000).sqrt()
    assert (abs(dropped.mean(0) - p[0]) <= 4.5 * standard_error[0] + 1e-12).all()


def test_half_precision_stays():
    weights = torch.full((1, 1, 2, 16), 1 / 16, dtype=torch.bfloat16)
    for unit in (AfterSoftmax(Block(2)), AfterSoftmax(Window(2)), Renormalised(Cross(1))):
        assert unit.drop(weights, 0.3).dtype == torch.bfloat16


ALL_PATTERNS = [Key(shared_over=("heads",)), Key(shared_over=("queries",)), Window(2), Block(2)]
ALL_PATTERNS += [Cross(1), Block(2, grid=(3, 5), num_prefix_tokens=1)]
ALL_PATTERNS += [Key(keep_self=True), Key(num_prefix_tokens=1)]
PLACES = (BeforeSoftmax, AfterSoftmax, Renormalised)
ALL_UNITS = [*UNITS, Block(2), *(place(pattern) for pattern in ALL_PATTERNS for place in PLACES)]


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
    for unit in ("weight", Key(keep_self=True), Key(num_prefix_tokens=1)):
        with pytest.raises(ValueError, match=r'inference must be None for unit .*"key"'):
            drop_key_attention(query, value, value, 0.3, unit=unit, **given)


@pytest.mark.parametrize("bad", ["head", 3, None])
def test_unknown_units_are_refused(bad):
    with pytest.raises(ValueError, match=f"unit must be one of key, .*; got {bad!r}"):
        find_unit(bad)


def test_a_pattern_alone_acts_before_the_softmax():
    assert find_unit(Block(3)) == BeforeSoftmax(Block(3)) != AfterSoftmax(Block(3))
    assert find_unit("weight") == AfterSoftmax(Key())
    assert find_unit("column") == Renormalised(Key(shared_over=("queries",)))


def test_a_place_wants_a_pattern():
    with pytest.raises(ValueError, match=r"pattern must be an object .*got 'block'"):
        find_unit(AfterSoftmax("block"))


def test_no_keys_at_all_give_no_weights():
    logits = torch.zeros(2, 3, 4, 0, requires_grad=True)
    for training in (True, False):
        assert drop_key_softmax(logits, 0.0, training=training).shape == (2, 3, 4, 0)
