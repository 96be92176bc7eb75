import pytest
import torch

from dropkey_core.engine import UserError
from projects.classification.t2t_tokens import OFFICIAL_SPLITS, TokensToToken, soft_split
from tests.projects.classification.plain_t2t import patches


@pytest.mark.parametrize("split", [(7, 4, 2), (3, 2, 1), (3, 1, 1), (2, 2, 0)])
def test_a_soft_split_cuts_overlapping_patches(split):
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(soft_split(x, split), patches(x, *split))


@pytest.mark.parametrize(
    ("splits", "image_size", "side"),
    [
        (OFFICIAL_SPLITS, 224, 14),
        (OFFICIAL_SPLITS, 384, 24),
        ([[3, 2, 1], [3, 2, 1], [3, 1, 1]], 32, 8),
        ([[3, 1, 1], [3, 2, 1], [3, 1, 1]], 8, 4),
        ([[4, 4, 0]], 32, 8),
    ],
)
def test_the_grid_is_what_comes_out(splits, image_size, side):
    tokens = TokensToToken(16, 8, splits)
    assert tokens.grid_size(image_size) == side
    if image_size <= 32:
        assert tokens(torch.zeros(1, 3, image_size, image_size)).shape == (1, side**2, 16)


def test_every_token_sees_the_whole_image():
    """Through the performer layers, which are what keeps the stem from being a convolution."""
    tokens = TokensToToken(16, 8, [[3, 1, 1], [3, 2, 1], [3, 1, 1]]).eval()
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    tokens(image)[0, 0].sum().backward()  # of the top left token
    assert image.grad[0, :, -1, -1].abs().min() > 0


def test_an_image_too_small_is_refused():
    tokens = TokensToToken(16, 8, [[3, 2, 0], [3, 2, 0]])
    with pytest.raises(UserError, match=r"image_size 5 is too small .*\(3, 2, 0\) gets a map of 2"):
        tokens.grid_size(5)


@pytest.mark.parametrize("splits", [[], [[3, 2]], [[0, 1, 1]], [[3, 0, 1]], [[3, 2, -1]]])
def test_splits_are_triples(splits):
    with pytest.raises(UserError, match=r"splits must be a list of \[kernel, stride, padding\]"):
        TokensToToken(16, 8, splits)


def test_unknown_layers_are_refused():
    with pytest.raises(UserError, match="tokens must be one of performer, transformer, got 'conv'"):
        TokensToToken(16, 8, tokens="conv")
