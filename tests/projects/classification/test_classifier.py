import copy

import pytest
import torch

from dropkey_core.engine import UserError
from dropkey_core.engine.checkpoint import load_state
from dropkey_core.equip import apply_dropkey
from dropkey_core.variants import attention_diversification
from projects.classification import build_model
from projects.classification.classifier import Diversification


def log_softmax(logits):
    return logits - torch.log(torch.exp(logits).sum(-1, keepdim=True))


def test_evaluation_returns_logits_of_each_image(tiny, samples):
    model = tiny(drop_ratio=0.5).eval()
    outputs = model(samples)
    expected = model.network(torch.stack([sample["image"] for sample in samples]))
    assert [list(output) for output in outputs] == [["logits"]] * 4
    torch.testing.assert_close(torch.stack([output["logits"] for output in outputs]), expected)


def test_logits_are_float32_whatever_the_network_computes_in(tiny, samples):
    model = tiny().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(samples)[0]["logits"].dtype == torch.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy(tiny, samples, smoothing):
    model = tiny({"token_dropout": 0.0}, label_smoothing=smoothing, drop_ratio=0.0, drop_path=0.0)
    torch.nn.init.normal_(model.network.head.weight)
    losses = model(samples)
    assert set(losses) == {"loss_cls"}
    with torch.no_grad():
        logits = model.network(torch.stack([sample["image"] for sample in samples]))
        targets = (1 - smoothing) * torch.eye(4)[[0, 1, 1, 3]] + smoothing / 4
        expected = -(targets * log_softmax(logits)).sum(-1).mean()
    torch.testing.assert_close(losses["loss_cls"].detach(), expected)


def test_training_drops_keys_and_the_seed_governs_it(tiny, samples):
    model = tiny({"token_dropout": 0.0}, drop_ratio=0.5, drop_path=0.0)

    def loss(seed):
        torch.manual_seed(seed)
        return model(samples)["loss_cls"]

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


def test_diversification_is_a_second_loss(tiny, samples):
    """Weighted, with gradients, beside a cross entropy of the same forward pass."""
    settings = {"drop_ratio": 0.0, "drop_path": 0.0}
    quiet = {"token_dropout": 0.0}
    plain = tiny(quiet, **settings)(samples)["loss_cls"]
    once, twice = (
        tiny(quiet, variants={"diversification": {"weight": w, "threshold": 1.0}}, **settings)
        for w in (1.0, 2.0)
    )
    losses = once(samples)
    torch.testing.assert_close(losses["loss_cls"], plain)
    assert losses["loss_diversification"] > 0
    losses["loss_diversification"].backward()
    assert once.network.blocks[0].attn.qkv.weight.grad.abs().max() > 0
    torch.testing.assert_close(
        twice(samples)["loss_diversification"], 2 * losses["loss_diversification"]
    )


def test_a_head_of_other_classes_begins_anew(tiny):
    source, target = tiny(num_classes=7), tiny()
    said = load_state(target, source.state_dict(), "a file")
    assert "initialised anew" in said
    assert "network.head.weight" in said
    assert target.network.head.out_features == 4


def test_a_copy_is_another_model(tiny, samples):
    """Also of the hooks: what changes in one does not show in the other."""
    variants = {"reattention": {}, "token_pooling": {}}
    model = tiny(variants=variants)
    twin = copy.deepcopy(model).eval()
    before = [output["logits"] for output in twin(samples)]
    model(samples)["loss_cls"].backward()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(1.0)
    model(samples)
    after = [output["logits"] for output in twin(samples)]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_images_of_another_size_are_refused(tiny):
    message = "takes images of 8 x 8 pixels, got 9 x 8: make model.image_size"
    with pytest.raises(UserError, match=message):
        tiny()([{"image": torch.zeros(3, 8, 9), "label": 0}])


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_there_are_not_are_refused(tiny, label):
    with pytest.raises(UserError, match=f"below model.num_classes=4 and not negative, got {label}"):
        tiny()([{"image": torch.zeros(3, 8, 8), "label": label}])


class SmallAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        self.weights = torch.softmax(3 * q @ k.transpose(-2, -1), -1)
        return (self.weights @ v)[:, 0]


def test_diversification_judges_the_maps_of_the_blocks():
    torch.manual_seed(0)
    network = torch.nn.Sequential(SmallAttention(), SmallAttention())
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
def test_numbers_of_diversification_are_above_zero(name):
    with pytest.raises(ValueError, match=f"diversification.{name} must be above 0, got -1"):
        Diversification(**{name: -1.0})
