import pytest
import torch

from projects.classification.performer import TokenPerformer


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return TokenPerformer(12, 8)


def test_the_kernel_approaches_the_softmax():
    """With many random features the linear attention is softmax attention without a scale."""
    torch.manual_seed(0)
    layer = TokenPerformer(4, 4)
    layer.w = torch.nn.Parameter(torch.randn(200_000, 4))
    q, k = 0.5 * torch.randn(2, 1, 6, 4)
    v = torch.eye(6)[None, :, :4]
    expected = torch.softmax(q @ k.transpose(1, 2), -1) @ v
    torch.testing.assert_close(layer.attend(q, k, v), expected, atol=5e-3, rtol=0)


def test_directions_are_orthogonal_and_frozen(layer):
    torch.testing.assert_close(layer.w @ layer.w.T, 4 * torch.eye(4), atol=1e-5, rtol=0)
    assert layer.w.shape == (4, 8)
    assert not layer.w.requires_grad


def test_attention_and_residual_stay_in_float32_under_autocast(layer):
    """Half precision would round exponents, and what every later layer is added to."""
    layer.eval()
    for parameter in layer.mlp[2].parameters():
        torch.nn.init.zeros_(parameter)  # the feed-forward network may round
    x = torch.randn(2, 5, 12)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    torch.testing.assert_close(out, layer(x), rtol=0, atol=0)


def test_features_that_underflow_give_zeros(layer):
    """Not nan: where all features vanish, so does the sum that they are divided by."""
    q = torch.full((1, 2, 8), 100.0)
    out = layer.attend(q, q, torch.ones(1, 2, 8))
    torch.testing.assert_close(out, torch.zeros(1, 2, 8))
