import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dropkey_core import apply_dropkey
from dropkey_core.variants import TokenPooling, apply_token_pooling


def pool_plainly(pooling, grid):
    """The formula for tokens on a grid (B, H, W, C), place by place."""
    _, height, width, _ = grid.shape
    logits = pooling.predictor(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    weights = logits.softmax(-1)  # (B, H, W, K)
    pooled = torch.zeros_like(grid)
    for i in range(height):
        for j in range(width):
            for k in range(pooling.num_scales):
                near = [(i, j)]
                if k:
                    near = [(i + a, j + b) for a in (-k, 0, k) for b in (-k, 0, k)]
                inside = [(r, c) for r, c in near if 0 <= r < height and 0 <= c < width]
                mean = sum(grid[:, r, c] for r, c in inside) / len(near)  # zeros count beyond
                pooled[:, i, j] += weights[:, i, j, k, None] * mean
    return pooled


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_scales", [2, 4])
def test_formula(num_scales, training):
    torch.manual_seed(0)
    pooling = TokenPooling(6, num_scales).train(training)
    grid = torch.randn(2, 4, 5, 6)
    assert_close(pooling(grid), pool_plainly(pooling, grid))


def test_tokens_in_a_row_are_those_of_the_grid_and_the_prefix_stays():
    torch.manual_seed(0)
    grid = torch.randn(2, 4, 5, 6)
    prefix = torch.randn(2, 3, 6)
    pooling = TokenPooling(6, grid=(4, 5)).eval()
    expected = pooling(grid).flatten(1, 2)
    assert_close(pooling(grid.flatten(1, 2)), expected)
    pooled = pooling(torch.cat((prefix, grid.flatten(1, 2)), 1))
    assert_close(pooled, torch.cat((prefix, expected), 1))


@pytest.mark.parametrize(("num_tokens", "num_prefix_tokens"), [(16, 0), (17, 1)])
def test_a_square_is_found_with_and_without_class_token(num_tokens, num_prefix_tokens):
    torch.manual_seed(0)
    pooling = TokenPooling(6).eval()
    tokens = torch.randn(1, num_tokens, 6)
    pooled = pooling(tokens)
    grid = tokens[:, num_prefix_tokens:].unflatten(1, (4, 4))
    assert_close(pooled[:, num_prefix_tokens:], pooling(grid).flatten(1, 2))
    assert_close(pooled[:, :num_prefix_tokens], tokens[:, :num_prefix_tokens], rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_attention_sees_pooled_tokens_and_the_residual_path_does_not(make_vit, training):
    torch.manual_seed(0)
    vit = make_vit().train(training)
    plain = copy.deepcopy(vit)
    assert apply_token_pooling(vit, num_scales=3) == ["blocks.0", "blocks.1", "blocks.2"]
    x = torch.randn(2, 17, 8)
    for ours, block in zip(vit.blocks, plain.blocks, strict=True):
        pooled = pool_plainly(ours.token_pooling, x[:, 1:].unflatten(1, (4, 4))).flatten(1, 2)
        y = x + block.attn(block.norm1(torch.cat((x[:, :1], pooled), 1)))
        assert_close(ours(x), y + block.mlp(block.norm2(y)))


def test_number_of_prefix_tokens_is_the_networks(make_vit):
    vit = make_vit(reg_tokens=8)  # 1 + 8 + 16 = 25, which would be a square
    apply_token_pooling(vit)
    assert vit.blocks[0].token_pooling.num_prefix_tokens == 9
    vit(torch.randn(2, 3, 8, 8))


def test_number_of_prefix_tokens_can_be_told_from_parameters_or_given():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_tokens = nn.Parameter(torch.zeros(1, 9, 8))
            layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, norm_first=True)
            self.layers = nn.ModuleList([layer])
            apply_dropkey(self, 0.0)

    for given, expected in ((None, 9), (0, 0)):
        network = Network()
        apply_token_pooling(network, num_prefix_tokens=given)
        assert network.layers[0].token_pooling.num_prefix_tokens == expected


def test_blocks_on_grids_and_of_torch(volo):
    assert apply_token_pooling(volo) == ["network.2.0", "network.3.0"]
    assert torch.isfinite(volo.eval()(torch.randn(1, 3, 32, 32))).all()
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    apply_dropkey(encoder, 0.0)
    x = torch.randn(2, 9, 8)
    plain = encoder.eval()(x)
    apply_token_pooling(encoder)
    assert not torch.allclose(encoder(x), plain)
    encoder(torch.randn(2, 10, 8))  # nothing says so, but the first must be a class token


@pytest.mark.parametrize(
    ("options", "num_tokens", "message"),
    [
        ({}, 12, r"patches on a square, got 12 tokens.*set grid"),
        ({"num_prefix_tokens": 2}, 17, "patches on a square, got 17 tokens"),
        ({"grid": (3, 4)}, 11, r"patches on a 3 x 4 grid, got 11 tokens"),
        ({"num_prefix_tokens": 4}, 4, "got 4 tokens"),
    ],
)
def test_patches_on_another_grid(options, num_tokens, message):
    with pytest.raises(ValueError, match=message):
        TokenPooling(6, **options)(torch.randn(1, num_tokens, 6))


def encoder_of(**options):
    layer = nn.TransformerEncoderLayer(8, 2, 8, **options)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    apply_dropkey(encoder, 0.0)
    return encoder


def test_blocks_that_normalise_after_attention_are_refused():
    encoder = encoder_of(batch_first=True)
    apply_token_pooling(encoder)
    for training in (True, False):
        with pytest.raises(RuntimeError, match=r"normalise before.*layers\.0 does not"):
            encoder.train(training)(torch.randn(2, 9, 8))


def test_wrong_models(make_vit):
    vit = make_vit()
    names = list(vit.state_dict())
    with pytest.raises(ValueError, match="num_scales must be at least 2, got 1"):
        apply_token_pooling(vit, num_scales=1)
    assert list(vit.state_dict()) == names
    apply_token_pooling(vit)
    with pytest.raises(ValueError, match=r"blocks\.0 \(Block\) has token_pooling already"):
        apply_token_pooling(vit)
    with pytest.raises(ValueError, match=r"layers\.0.*MultiheadAttention with batch_first=False"):
        apply_token_pooling(encoder_of(norm_first=True))
    bare = nn.Sequential(make_vit().blocks[0].attn)
    with pytest.raises(ValueError, match=r"0 \(\w+\) has none called norm1 or"):
        apply_token_pooling(bare)
