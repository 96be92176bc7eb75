import math

import pytest
import torch

from dropkey_core.engine import UserError, param_groups
from projects.classification import build_model
from projects.classification.t2t import T2TViT, sinusoid_table
from tests.projects.classification.plain_t2t import plain_t2t

SPLITS = [[3, 1, 1], [3, 2, 1], [3, 1, 1]]


def randomised(network):
    """Weights far from their initial values, biases and norms included."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("tokens", ["performer", "transformer"])
def test_is_the_papers_network(tiny, tokens):
    network = randomised(tiny({"tokens": tokens}).network)
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    expected, used = plain_t2t(network.state_dict(), images, 2, SPLITS)
    assert used == set(network.state_dict())
    # float32 against float64
    torch.testing.assert_close(network(images).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_official_network_has_these_frozen_parameters():
    with torch.device("meta"):
        network = build_model("t2t_vit_14").network
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}
    assert network.pos_embed.shape[1] == 197


def test_positions_are_sines_and_cosines():
    table = sinusoid_table(5, 6)
    for position in range(5):
        for channel in range(6):
            angle = position / 10_000 ** (2 * (channel // 2) / 6)
            wave = math.cos(angle) if channel % 2 else math.sin(angle)
            assert table[position, channel].item() == pytest.approx(wave, abs=1e-7)


def test_one_split_is_a_plain_vision_transformer(tiny):
    network = tiny({"splits": [[4, 4, 0]]}).network
    assert not hasattr(network.tokens_to_token, "attention1")
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert network.pos_embed.shape == (1, 5, 16)


def test_stochastic_depth_grows_with_depth(tiny):
    network = tiny({"depth": 3}, drop_path=0.2).network
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in network.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_weight_decay_spares_the_class_token(tiny):
    model = tiny()
    groups = param_groups(model, 1.0, decay_vectors=False)
    spared = {id(p) for group in groups if "weight_decay" in group for p in group["params"]}
    assert id(model.network.cls_token) in spared
    assert id(model.network.head.bias) in spared
    assert id(model.network.head.weight) not in spared


def test_features_come_with_all_tokens(tiny):
    network = tiny().network.eval()
    images = torch.randn(2, 3, 8, 8)
    features = network.forward_features(images)
    assert features.shape == (2, 17, 16)
    torch.testing.assert_close(network.head(features[:, 0]), network(images))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"embed_dim": 10, "num_heads": 4}, "embed_dim must be even and a multiple of num_heads=4"),
        ({"token_dim": 5}, "token_dim must be even, got 5"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2, **sizes}
    with pytest.raises(UserError, match=message):
        T2TViT(4, 32, **sizes)
