"""Reweighing: what stands between the weights of an attention and its values."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from dropkey_core.attention import MultiheadAttention
from dropkey_core.equip import apply_dropkey, remove_dropkey


class Halve(nn.Module):
    """Gives key 0 half of what every other key has; a parameter says how much."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, weights):
        others = weights * self.share
        return torch.cat(((1 - self.share) + others[..., :1], others[..., 1:]), -1)


class FusedAttention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


class ExplicitAttention(nn.Module):
    def forward(self, x):
        return (x @ x.mT * x.shape[-1] ** -0.5).softmax(-1) @ x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [FusedAttention, ExplicitAttention])
def test_other_weights_average_the_values(kind, training):
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    attention = kind().train(training)
    apply_dropkey(attention, 0.0)
    attention.reweigh = Halve().double()
    plain = (x @ x.mT / 2).softmax(-1) @ x
    assert_close(attention(x), 0.5 * plain + 0.5 * x[..., :1, :])


@pytest.mark.parametrize("make", [MultiheadAttention, nn.MultiheadAttention])
def test_other_weights_in_multi_head_attention(make):
    torch.manual_seed(0)
    attention = make(8, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        attention.in_proj_bias.normal_()
        attention.out_proj.weight.copy_(torch.eye(8))
    plain, before = attention(x, x, x, need_weights=True, average_attn_weights=False)
    apply_dropkey(attention, 0.0)
    attention.reweigh = Halve()
    output, none = attention(x, x, x, need_weights=False)
    first_value = F.linear(x[:, :1], attention.in_proj_weight[16:], attention.in_proj_bias[16:])
    assert none is None
    assert_close(output, 0.5 * plain + 0.5 * first_value)
    weights = attention(x, x, x, average_attn_weights=False)[1]
    assert_close(weights, Halve()(before))


def test_its_parameters_are_part_of_the_model():
    attention = FusedAttention()
    apply_dropkey(attention, 0.2)
    attention.reweigh = Halve()
    assert list(attention.state_dict()) == ["reweigh.share"]
    attention(torch.randn(1, 2, 5, 4)).sum().backward()
    assert attention.reweigh.share.grad.abs() > 0
    twin = copy.deepcopy(attention)
    assert twin.reweigh is not attention.reweigh
    apply_dropkey(attention, 0.4)  # another ratio leaves it alone
    assert attention.drop_ratio == 0.4 and isinstance(attention.reweigh, Halve)
    remove_dropkey(attention)
    assert list(attention.state_dict()) == [] and type(attention) is FusedAttention


def test_vanilla_dropout_stays_where_no_key_is_dropped():
    class WithDropout(nn.Module):
        """Attention with vanilla dropout of its weights."""

        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 * self.training)

    attention = WithDropout()
    apply_dropkey(attention, 0.0)
    seen = []
    attention.reweigh = lambda weights: seen.append(weights) or weights
    attention(torch.randn(1, 2, 8, 4))
    assert (seen[0] == 0).any()
    attention.eval()(torch.randn(1, 2, 8, 4))
    assert not (seen[1] == 0).any()
