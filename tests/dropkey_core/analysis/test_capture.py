import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dropkey_core.analysis.capture import captured_attention, captured_shape
from dropkey_core.attention import MultiheadAttention
from dropkey_core.equip import apply_dropkey
from tests.dropkey_core.toys import ExplicitAttention, FusedAttention

FOREIGN = [FusedAttention, ExplicitAttention]


def equipped(attention, ratio=0.0):
    apply_dropkey(attention, ratio)
    return attention


def test_weights_of_each_call_are_kept_for_each_head():
    torch.manual_seed(0)
    attention = MultiheadAttention(8, 2, batch_first=True).eval()
    x, y = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    with captured_attention(attention) as maps:
        output, none = attention(x, y, y, need_weights=False)
        attention(y, x, x, need_weights=False)
    assert none is None
    assert [tuple(kept.shape) for kept in maps[""]] == [(1, 2, 3, 5), (1, 2, 5, 3)]
    plain, mean = attention(x, y, y, need_weights=True)
    assert_close(maps[""][0].mean(1), mean)
    assert_close(output, plain)


@pytest.mark.parametrize("lead", [(2, 3), (2, 3, 4)])
@pytest.mark.parametrize("kind", FOREIGN)
def test_weights_of_others_attention_in_any_number_of_axes(kind, lead):
    x = torch.randn(*lead, 5, 4, requires_grad=True)
    attention = equipped(kind())
    expected = kind()(x)
    for training in (True, False):
        with captured_attention(attention.train(training)) as maps:
            output = attention(x)
        (weights,) = maps[""]
        assert_close(weights, (x @ x.mT / 2).softmax(-1))
        assert_close(output, expected)
        assert weights.requires_grad


@pytest.mark.parametrize("kind", FOREIGN)
def test_weights_are_those_after_dropping(kind):
    x = torch.randn(2, 3, 6, 4)
    attention = equipped(kind(), 0.5).train()
    with captured_attention(attention) as maps:
        output = attention(x)
    (weights,) = maps[""]
    assert (weights == 0).any()
    assert_close(weights.sum(-1), torch.ones(2, 3, 6))
    assert_close(output, weights @ x)


def test_captures_inside_a_capture_collect_each_what_they_see():
    attention, x = equipped(FusedAttention(), 0.5), torch.randn(1, 4, 8)
    with captured_attention(attention) as outer:
        with captured_attention(attention) as inner:
            attention(x)
        attention(x)
    attention(x)
    assert (len(outer[""]), len(inner[""])) == (2, 1)
    assert torch.equal(outer[""][0], inner[""][0])
    assert "observe" not in vars(attention)


def test_names_are_those_of_the_model():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    apply_dropkey(model.eval(), 0.3)
    with captured_attention(model) as maps:
        model(torch.randn(1, 4, 8))
    assert list(maps) == ["layers.0.self_attn", "layers.1.self_attn"]
    assert [len(weights) for weights in maps.values()] == [1, 1]


def test_torchs_own_dropout_stays_where_nothing_else_is_dropped():
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    x = torch.randn(1, 6, 8)
    torch.manual_seed(1)
    apply_dropkey(attention, 0.0)
    with captured_attention(attention) as maps:
        attention(x, x, x, need_weights=False)
    weights = maps[""][0]
    with captured_attention(attention.eval()) as maps:
        attention(x, x, x, need_weights=False)
    dropped = weights == 0
    assert dropped.any()
    assert_close(weights[~dropped], 2 * maps[""][0][~dropped])


def test_shape_of_each_output_is_kept():
    module = nn.Conv2d(3, 4, 3)
    with captured_shape(module) as shapes:
        module(torch.zeros(1, 3, 5, 6))
        module(torch.zeros(2, 3, 4, 4))
    assert shapes == [(1, 4, 3, 4), (2, 4, 2, 2)]


def test_nothing_is_left_on_the_module():
    attention = MultiheadAttention(8, 2, batch_first=True)
    before = set(vars(attention))
    with captured_attention(attention), captured_shape(attention):
        assert attention._forward_hooks and attention.observe
    assert not attention._forward_hooks and attention.observe is None
    assert set(vars(attention)) == before
    copy.deepcopy(attention)
