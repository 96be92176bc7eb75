"""``AttentionInterception`` against attention written out, with a mask that is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropkey_core.attention.patterns import Key, Pattern
from dropkey_core.equip.axes import OTHER_AXIS
from dropkey_core.equip.interception import AttentionInterception, Interception
from tests.dropkey_core.toys import compiles_whole

INF = torch.inf
LOWEST = torch.finfo(torch.float32).min


class EveryThird(Pattern):
    """Query i loses keys j with (i + j) % 3 == 0, unless it would lose all: not random."""

    def dropped(self, draw):
        return (every_third(*draw.shape[-2:]) == -INF).expand(draw.shape)


def every_third(num_queries, num_keys, dtype=torch.float64):
    places = torch.arange(num_queries)[:, None] + torch.arange(num_keys)
    return torch.zeros(num_queries, num_keys, dtype=dtype).masked_fill(places % 3 == 0, -INF)


def intercepted():
    interception = Interception(0.3, EveryThird(), training=True, inference=None)
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


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 2, 3)])
def test_causal_bias_of_torch(lead):
    bias = pytest.importorskip("torch.nn.attention.bias").causal_lower_right(4, 5)
    tensors = qkv(lead)
    with intercepted()[1]:
        out = F.scaled_dot_product_attention(*tensors, attn_mask=bias)
    causal = torch.full((4, 5), -INF).triu(2).double()
    torch.testing.assert_close(out, explicit(*tensors, causal + every_third(4, 5)))


def test_grouped_queries():
    query = qkv((2, 6))[0]
    _, key, value = qkv((2, 3))
    with intercepted()[1]:
        out = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    key, value = (x[:, [0, 0, 1, 1, 2, 2]] for x in (key, value))
    torch.testing.assert_close(out, explicit(query, key, value, every_third(4, 5)))


@pytest.mark.parametrize("level", [0.0, -1e6])
@pytest.mark.parametrize("masked", [-INF, LOWEST, -1e9, -1e4, -100.0])
def test_a_query_never_falls_back_on_keys_masked_by_a_large_number(masked, level):
    """It would lose the one key it has: it loses none, rather than attend to the padding.

    All logits may be low: only their distances count.
    """
    query, key, value = qkv((1, 1), num_queries=1)
    mask = level + torch.tensor([0.0, *[masked] * 4], dtype=torch.float64)
    with intercepted()[1]:
        fused = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[None])
        weights = (query @ key.mT + mask).softmax(-1)
    torch.testing.assert_close(fused, value[:, :, :1])
    torch.testing.assert_close(weights, torch.tensor([[[[1.0, 0, 0, 0, 0]]]]).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_whose_logits_are_all_low_drop_keys_as_others(dtype):
    logits = (torch.randn(2, 3, 4, 5) - 6e4).to(dtype)
    with intercepted()[1]:
        weights = logits.softmax(-1)
    expected = (logits + every_third(4, 5, dtype)).softmax(-1)
    torch.testing.assert_close(weights, expected)


def test_a_key_that_is_far_but_not_masked_takes_over():
    """40 below the largest logit is small, and more than nothing."""
    logits = torch.tensor([[[0.0, -40.0, -41.0]]])  # the first query loses its first key
    with intercepted()[1]:
        weights = logits.softmax(-1)
    torch.testing.assert_close(weights, torch.tensor([[[0.0, 0.7310586, 0.2689414]]]))


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


# --- heads that share a draw ---


def shared_by_heads(num_heads):
    unit = Key(shared_over=("heads",))
    return AttentionInterception(Interception(0.5, unit, True, None, num_heads=num_heads))


def explicitly(x):
    return (x @ x.mT).softmax(-1)


def fused(x):
    """The weights, by values that are the identity."""
    return F.scaled_dot_product_attention(x, x, torch.eye(x.shape[-2]).expand(*x.shape[:-1], -1))


@pytest.mark.parametrize("attend", [explicitly, fused])
@pytest.mark.parametrize("lead", [(6,), (2, 3), (4, 2, 3)])
def test_heads_of_an_image_share_and_images_differ(attend, lead):
    torch.manual_seed(0)
    with shared_by_heads(3):
        lost = attend(torch.randn(*lead, 8, 4)) == 0
    lost = lost.reshape(-1, 3, 8, 8)
    assert torch.equal(lost, lost[:, :1].expand_as(lost))
    assert not any(torch.equal(lost[0], other) for other in lost[1:])


@pytest.mark.parametrize("attend", [explicitly, fused])
@pytest.mark.parametrize(("lead", "num_heads"), [((6,), None), ((6,), 4), ((2, 3), 4)])
def test_heads_that_cannot_be_told_are_an_error(attend, lead, num_heads):
    text = r"which of the attention maps are heads .*number of heads is (None|4): .*num_heads"
    with pytest.raises(ValueError, match=text), shared_by_heads(num_heads):
        attend(torch.randn(*lead, 8, 4))


# --- attention sinks ---


def attend_beside_a_sink(logits, sink, dropout=0.9):
    """As gpt-oss and others: the sink takes weight and has no value."""
    logits = torch.cat([logits, sink.expand(*logits.shape[:-1], 1)], dim=-1)
    logits = logits - logits.max(dim=-1, keepdim=True).values
    return F.dropout(F.softmax(logits, dim=-1)[..., :-1], dropout)


def test_a_sink_is_never_dropped_and_the_dropout_of_the_weights_goes():
    torch.manual_seed(0)
    logits, sink = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(3, 1, 1).double()
    expected = attend_beside_a_sink(logits + every_third(4, 5), sink, dropout=0.0)
    interception, mode = intercepted()
    interception.has_sink, seen = True, []
    interception.observe = seen.append
    with mode:
        weights = attend_beside_a_sink(logits, sink)
    torch.testing.assert_close(weights, expected)
    assert torch.equal(seen[0], weights) and weights.sum(-1).max() < 1


@pytest.mark.parametrize(
    ("unit", "inference"), [("weight", None), ("element", None), ("key", lambda x, ratio: x)]
)
def test_beside_a_sink_only_keys_can_be_dropped(unit, inference):
    interception = Interception(0.3, unit, True, inference, has_sink=True)
    with (
        pytest.raises(ValueError, match="attention sink only keys can be dropped"),
        AttentionInterception(interception),
    ):
        attend_beside_a_sink(torch.randn(2, 4, 5), torch.zeros(1))


def test_a_logit_that_is_joined_is_a_key_where_the_code_has_no_sinks():
    logits = torch.randn(2, 4, 5, dtype=torch.float64)
    with intercepted()[1]:
        weights = torch.cat([logits, logits[..., :1]], -1).softmax(-1)
    expected = (torch.cat([logits, logits[..., :1]], -1) + every_third(4, 6)).softmax(-1)
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize(
    "softmax",
    [
        lambda x: torch.softmax(x, axis=-1),
        lambda x: x.softmax(axis=-1),
        lambda x: torch.cat([x[..., :2], x[..., 2:]], axis=-1).softmax(-1),
    ],
)
def test_axis_is_another_name_of_dim(softmax):
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    with intercepted()[1]:
        weights = softmax(logits)
    torch.testing.assert_close(weights, (logits + every_third(4, 5)).softmax(-1))


def test_an_axis_that_is_no_dim_stays():
    """Of quantisation, as in quantisation-aware training."""
    x, ones = torch.randn(2, 3), torch.ones(3)
    settings = {"axis": 1, "quant_min": 0, "quant_max": 9}
    zeros = torch.zeros(3, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x, ones, zeros, **settings)
    with intercepted()[1]:
        found = torch.fake_quantize_per_channel_affine(x, ones, zeros, **settings)
    assert torch.equal(found, expected)


# --- torch.compile ---


@compiles_whole
def test_lengths_that_change_are_compiled_whole():
    def run(x):
        interception = Interception(0.5, "key", True, None)
        with AttentionInterception(interception):
            weights = (x @ x.mT).softmax(-1)
            return F.dropout(weights, 0.9)

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    for length in (5, 7, 9):
        weights = compiled(torch.randn(2, length, 4))
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, length))
    torch._dynamo.reset()
