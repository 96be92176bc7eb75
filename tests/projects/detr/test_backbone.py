from pathlib import Path
from unittest import mock
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from dropkey_core.engine.errors import UserError
from projects.detr import backbone
from projects.detr.backbone import ResNetBackbone, TopDown


def unsettle(norms):
    """Give frozen norms values that are not those of the identity."""
    for norm in norms:
        norm.weight.uniform_(0.5, 1.0)
        norm.bias.normal_(0, 0.1)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2.0)


@pytest.mark.parametrize(("name", "block"), [("resnet18", BasicBlock), ("resnet50", Bottleneck)])
def test_blocks_compute_what_torchvision_computes(name, block):
    """The same modules with torchvision's own forward, norms not folded; gradients too."""
    torch.manual_seed(0)
    body = ResNetBackbone(name, pretrained=False).body.double()
    unsettle(m for m in body.modules() if isinstance(m, FrozenBatchNorm2d))
    blocks = body.layer2
    features = torch.randn(2, blocks[0].conv1.in_channels, 6, 4, dtype=torch.double)
    folded = blocks(features)
    plain = features
    for module in blocks:
        plain = block.forward(module, plain)
    torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)
    parameters = list(blocks.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(folded.square().sum(), parameters),
        torch.autograd.grad(plain.square().sum(), parameters),
        rtol=1e-8,
        atol=1e-8,
    )


def test_batch_norm_still_learns():
    body = ResNetBackbone("resnet10", pretrained=False, norm="batch")
    before = body.body.bn1.running_mean.clone()
    body(torch.rand(2, 3, 32, 32)).sum().backward()
    assert not torch.equal(body.body.bn1.running_mean, before)
    assert all(parameter.grad is not None for parameter in body.parameters())


def test_stem_and_first_stage_are_frozen():
    model = ResNetBackbone("resnet50", pretrained=False)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert len(frozen) == 11
    assert {name.split(".")[1] for name in frozen} == {"conv1", "layer1"}
    model(torch.rand(1, 3, 32, 32)).sum().backward()
    assert model.body.layer1[0].conv1.weight.grad is None
    assert model.body.layer2[0].conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "channels", "stride"),
    [
        ({"name": "resnet18"}, 512, 32),
        ({"name": "resnet50"}, 2048, 32),
        ({"name": "resnet50", "dilation": True}, 2048, 16),
        ({"name": "resnet18", "num_stages": 3}, 256, 16),
        ({"name": "resnet18", "top_down": 1}, 128, 16),
        ({"name": "resnet50", "num_stages": 3, "top_down": 2}, 128, 4),
    ],
)
def test_feature_map_size(settings, channels, stride):
    model = ResNetBackbone(pretrained=False, **settings)
    assert (model.num_channels, model.stride) == (channels, stride)
    with torch.no_grad():
        features = model(torch.rand(1, 3, 65, 96))
    assert features.shape == (1, channels, -(-65 // stride), 96 // stride)
    assert features.is_contiguous(memory_format=torch.channels_last)  # which makes it fast


def test_a_top_down_map_is_the_fine_map_plus_the_coarse_one():
    """Laterals that pass one channel each; a coarse cell is seen in the four fine ones under it."""
    merge = TopDown([1, 1])
    merge.output = nn.Identity()
    for lateral in merge.lateral:
        nn.init.ones_(lateral.weight)
        nn.init.zeros_(lateral.bias)
    coarse = torch.tensor([[[[10.0, 20.0]]]])
    fine = torch.arange(8.0).view(1, 1, 2, 4)
    expected = fine + torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    torch.testing.assert_close(merge([coarse, fine]), expected.expand(1, 128, 2, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet51"}, "backbone must be one of .*resnet50, resnet101, got 'resnet51'"),
        ({"norm": "layer"}, "backbone_norm must be one of frozen, batch, got 'layer'"),
        ({"name": "resnet18", "dilation": True}, "dilation needs a bottleneck .*, got resnet18"),
        ({"num_stages": 2, "top_down": 2}, r"backbone_top_down must be in 0\.\.1, .*got 2"),
        ({"num_stages": 5}, r"backbone_stages must be in 1\.\.4, got 5"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        ResNetBackbone(pretrained=False, **settings)


def test_weights_that_are_not_published_or_out_of_reach(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"resnet10 has no ImageNet weights.*pretrained_backbone="):
        ResNetBackbone("resnet10", pretrained=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with (
        mock.patch.object(torch.hub, "download_url_to_file", side_effect=URLError("no route")),
        pytest.raises(UserError, match=r"for resnet50: cannot fetch .*no route.*checkpoints, or s"),
    ):
        ResNetBackbone("resnet50")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Where torchvision's file of a ResNet-18 lies once it was downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / Path(backbone.torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name


def test_published_weights_are_loaded(stored):
    """Under torchvision's names, with its batch norm's counters, which the frozen one lacks."""
    published = backbone.torchvision.models.resnet18(weights=None).state_dict()
    torch.save(published, stored)
    body = ResNetBackbone("resnet18").body
    for name, value in body.state_dict().items():
        assert torch.equal(value, published[name]), name
