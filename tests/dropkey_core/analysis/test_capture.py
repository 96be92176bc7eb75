import torch
from torch import nn
from torch.testing import assert_close

from dropkey_core.analysis.capture import captured_shape, captured_weights
from dropkey_core.attention import MultiheadAttention


def test_weights_of_each_call_are_kept_for_each_head():
    torch.manual_seed(0)
    attention = MultiheadAttention(8, 2, batch_first=True).eval()
    x, y = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    with captured_weights(attention) as weights:
        output, none = attention(x, y, y, need_weights=False)
        attention(y, x, x, need_weights=False)
    assert none is None
    assert [tuple(kept.shape) for kept in weights] == [(1, 2, 3, 5), (1, 2, 5, 3)]
    plain, mean = attention(x, y, y, need_weights=True)
    assert_close(weights[0].mean(1), mean)
    assert_close(output, plain)


def test_shape_of_each_output_is_kept():
    module = nn.Conv2d(3, 4, 3)
    with captured_shape(module) as shapes:
        module(torch.zeros(1, 3, 5, 6))
        module(torch.zeros(2, 3, 4, 4))
    assert shapes == [(1, 4, 3, 4), (2, 4, 2, 2)]


def test_nothing_is_left_on_the_module():
    attention = MultiheadAttention(8, 2, batch_first=True)
    with captured_weights(attention), captured_shape(attention):
        assert attention._forward_hooks and attention._forward_pre_hooks
    assert not attention._forward_hooks and not attention._forward_pre_hooks
