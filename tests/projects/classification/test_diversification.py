import pytest
import torch

from dropkey_core.equip import apply_dropkey
from dropkey_core.variants import attention_diversification
from projects.classification import build_model
from projects.classification.diversification import Diversification


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        self.weights = torch.softmax(3 * q @ k.transpose(-2, -1), -1)
        return (self.weights @ v)[:, 0]


def test_judges_the_maps_of_the_blocks():
    torch.manual_seed(0)
    network = torch.nn.Sequential(Attention(), Attention())
    apply_dropkey(network, 0.0)
    x = torch.randn(2, 6, 4)
    output, loss = Diversification(weight=3.0, threshold=1.5)(network, x)
    torch.testing.assert_close(output, network(x))
    expected = 3.0 * attention_diversification([layer.weights for layer in network], 1.5)
    assert loss > 0
    torch.testing.assert_close(loss, expected)


def test_neither_outlook_nor_class_attention_is_judged():
    torch.manual_seed(0)
    sizes = {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 32, 32], "num_heads": [2, 2, 2, 2]}
    variants = {"diversification": {"threshold": 1.0}}
    model = build_model("volo", 4, 32, architecture_options=sizes, variants=variants)
    losses = model([{"image": torch.randn(3, 32, 32), "label": i} for i in range(2)])
    assert 0 < losses["loss_diversification"] < 1


@pytest.mark.parametrize("name", ["weight", "threshold"])
def test_numbers_are_above_zero(name):
    with pytest.raises(ValueError, match=f"diversification.{name} must be above 0, got -1"):
        Diversification(**{name: -1.0})
