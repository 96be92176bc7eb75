"""``AttentionInterception`` against attention written out, with a mask that is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropkey_core.attention.patterns import Pattern
from dropkey_core.equip.axes import OTHER_AXIS
from dropkey_core.equip.interception import AttentionInterception, Interception

INF = torch.inf
LOWEST = torch.finfo(torch.float32).min


class EveryThird(Pattern):
    """Query i loses keys j with (i + j) % 3 == 0, unless it would lose all: not random."""

    def dropped(self, draw):
        return (every_third(*draw.shape[-2:]) == -INF).expand(draw.shape)


def every_third(num_queries, num_keys, dtype=torch.float64):
    places = torch.arange(num_queries)[:, None] + torch.arange(num_keys)
    return torch.zeros(num_queries, num_keys, dtype=dtype).masked_fill(places % 3 == 0, -INF)


def intercepted(training=True, inference=None):
    interception = Interception(0.3, EveryThird(), training, inference)
    return interception, AttentionInterception(interception)


def qkv(lead, num_queries=4, num_keys=5, value_width=3):
    torch.manual_seed(0)
    shapes = ((num_queries, 2), (num_keys, 2), (num_keys, value_width))
    return [torch.randn(*lead, *shape, dtype=torch.float64) for shape in shapes]


def explicit(query, key, value, mask, scale=2**-0.5):
    return (query @ key.mT * scale + mask).softmax(-1) @ value


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 3, 2), (2, 1, 2, 3)])
@pytest.mark.parametrize("mask", ["none", "shared", "whole", "bool"])
def test_fused_attention_with_any_number_of_axes(lead, mask):
    tensors = qkv(lead)
    given, added = {
        "none": (None, torch.zeros(())),
        "shared": (m := torch.randn(4, 5, dtype=torch.float64), m),
        "whole": (m := torch.randn(*lead, 4, 5, dtype=torch.float64), m),
        "bool": (m := torch.arange(5).expand(4, 5) < 4, torch.zeros(4, 5).masked_fill(~m, -INF)),
    }[mask]
    interception, mode = intercepted()
    with mode:
        out = F.scaled_dot_product_attention(*tensors, attn_mask=given, dropout_p=0.5)
    torch.testing.assert_close(out, explicit(*tensors, added + every_third(4, 5)))
    assert interception.num_attended == 1


def test_fused_attention_with_first_axes_that_broadcast():
    query, key, value = qkv((2, 3))
    with intercepted()[1]:
        out = F.scaled_dot_product_attention(query[:1], key, value[:, :1], scale=1.0)
    expected = explicit(query[:1], key, value[:, :1], every_third(4, 5), scale=1.0)
    torch.testing.assert_close(out, expected)


def test_causal_attention():
    tensors = qkv((2, 3))
    causal = torch.full((4, 5), -INF).triu(1).double()
    both = causal + every_third(4, 5)
    both[0] = causal[0]  # the first query would lose the only key it has
    with intercepted()[1]:
        out = F.scaled_dot_product_attention(*tensors, is_causal=True)
    torch.testing.assert_close(out, explicit(*tensors, both))


def test_grouped_queries():
    query = qkv((2, 6))[0]
    _, key, value = qkv((2, 3))
    with intercepted()[1]:
        out = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    key, value = (x[:, [0, 0, 1, 1, 2, 2]] for x in (key, value))
    torch.testing.assert_close(out, explicit(query, key, value, every_third(4, 5)))


@pytest.mark.parametrize("masked", [-INF, LOWEST, -1e9, -1e4])
def test_a_query_never_falls_back_on_keys_masked_by_a_large_number(masked):
    """It would lose the one key it has: it loses none, rather than attend to the padding."""
    query, key, value = qkv((1, 1), num_queries=1)
    mask = torch.tensor([0.0, *[masked] * 4], dtype=torch.float64)
    with intercepted()[1]:
        fused = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[None])
        weights = (query @ key.mT + mask).softmax(-1)
    torch.testing.assert_close(fused, value[:, :, :1])
    torch.testing.assert_close(weights, torch.tensor([[[[1.0, 0, 0, 0, 0]]]]).double())


SOFTMAXES = {
    "torch": lambda x: torch.softmax(x, -1),
    "torch, named": lambda x: torch.softmax(input=x, dim=3),
    "torch.special": lambda x: torch.special.softmax(x, -1),
    "method": lambda x: x.softmax(dim=-1),
    "functional": lambda x: F.softmax(x, dim=-1),
    "functional, type": lambda x: F.softmax(x, dim=-1, dtype=torch.float32),
    "method, type": lambda x: x.softmax(-1, torch.float32),
    "module": nn.Softmax(dim=-1),
}


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_softmax_over_the_keys_however_it_is_called(softmax):
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = SOFTMAXES[softmax](logits + every_third(4, 5))
    interception, mode = intercepted()
    with mode:
        weights = SOFTMAXES[softmax](logits)
    torch.testing.assert_close(weights, expected)
    assert interception.num_attended == 1


@pytest.mark.parametrize("dim", [0, 1, 2, -2])
def test_softmax_over_another_axis_is_left_and_noticed(dim):
    logits = torch.randn(2, 3, 4, 5)
    interception, mode = intercepted()
    with mode:
        weights = logits.softmax(dim)
    assert torch.equal(weights, logits.softmax(dim))
    assert interception.others == [OTHER_AXIS] and interception.num_attended == 0


def test_softmax_over_experts_or_layers_is_left():
    """It has no axis of queries beside those of heads or batch: (tokens, experts), (layers,)."""
    interception, mode = intercepted()
    with mode:
        for logits in (torch.randn(6, 4), torch.randn(4)):
            assert torch.equal(logits.softmax(-1), F.softmax(logits, 0 if logits.dim() == 1 else 1))
    assert interception.num_attended == 0 and OTHER_AXIS not in interception.others


@pytest.mark.parametrize("dropout", [nn.Dropout(0.9), lambda x: torch.dropout(x, 0.9, True)])
def test_the_dropout_of_the_weights_gives_way_and_no_other(dropout):
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    other = torch.ones(2, 4, 6)
    with intercepted()[1]:
        before = dropout(torch.ones(2, 3, 4, 5))
        weights = logits.softmax(-1)
        among = dropout(other)
        weights = dropout(weights)
        after = dropout(torch.ones(2, 3, 4, 5))
    torch.testing.assert_close(weights, (logits + every_third(4, 5)).softmax(-1))
    assert all((x == 0).any() for x in (before, among, after))


def test_two_maps_of_different_shape_each_lose_their_dropout():
    logits = torch.randn(2, 4, 5, dtype=torch.float64)
    with intercepted()[1]:
        weights = [logits.softmax(-1), logits.mT.softmax(-1)]
        dropped = [F.dropout(x, 0.9) for x in weights]
    assert all(map(torch.equal, dropped, weights))


def test_inference_takes_the_place_of_the_softmax():
    calls = []

    def inference(logits, drop_ratio):
        calls.append((tuple(logits.shape), drop_ratio))
        return torch.full_like(logits, 1 / logits.shape[-1])

    interception = Interception(0.3, "key", False, inference)
    tensors = qkv((2, 3))
    with AttentionInterception(interception):
        fused = F.scaled_dot_product_attention(*tensors)
        weights = torch.randn(2, 4, 5).softmax(-1)
    torch.testing.assert_close(fused, tensors[2].mean(-2, keepdim=True).expand(-1, -1, 4, -1))
    assert (weights == 0.2).all()
    assert calls == [((2, 3, 4, 5), 0.3), ((2, 4, 5), 0.3)]
