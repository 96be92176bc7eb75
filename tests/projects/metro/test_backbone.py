import pytest
import timm
import torch
import torchvision

from dropkey_core.engine import UserError
from projects.metro import backbone
from projects.metro.backbone import Backbone


def test_hrnets_map_is_the_one_that_its_classifier_averages():
    torch.manual_seed(0)
    classifier = timm.create_model("hrnet_w18_small", pretrained=False, num_classes=5).eval()
    ours = Backbone("hrnet_w18_small", pretrained=False).eval()
    state = classifier.state_dict()
    head = state.pop("classifier.weight"), state.pop("classifier.bias")
    ours.body.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = ours(images)
        expected = classifier(images)
    assert (ours.num_channels, ours.stride, features.shape) == (2048, 32, (2, 2048, 2, 2))
    found = features.mean((2, 3)) @ head[0].T + head[1]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("num_stages", "channels", "stride"), [(4, 512, 32), (2, 128, 8)])
def test_a_resnets_stages_are_torchvisions(num_stages, channels, stride):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = Backbone("resnet18", pretrained=False, num_stages=num_stages).eval()
    wanted = ours.body.state_dict()
    ours.body.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in wanted})
    images = torch.randn(2, 3, 64, 64)
    expected = torch.nn.Sequential(*list(theirs.children())[: 4 + num_stages])(images)
    torch.testing.assert_close(ours(images), expected)
    assert (ours.num_channels, ours.stride) == (channels, stride)
    assert len([name for name in wanted if name.startswith("layer4")]) == (num_stages == 4) * 30


@pytest.mark.parametrize(
    ("name", "num_stages", "message"),
    [
        ("resnet5O", 4, "an HRNet or ResNet of timm, .* got 'resnet5O'; nearest is 'resnet50'"),
        ("vit_base_patch16_224", 4, "backbone must be an HRNet or ResNet of timm"),
        ("resnet18", 5, "backbone_stages must be 1 to 4, got 5"),
        ("resnet18", 0, "backbone_stages must be 1 to 4, got 0"),
        ("hrnet_w64", 3, "backbone_stages must be 4 for HRNet, got 3"),
    ],
)
def test_what_there_is_not(name, num_stages, message):
    with pytest.raises(UserError, match=message):
        Backbone(name, pretrained=False, num_stages=num_stages)


@pytest.mark.parametrize(
    ("name", "asked"),
    [("hrnet_w64", "hrnet_w64"), ("resnet50", "resnet50.tv_in1k"), ("resnet10t.c3_in1k",) * 2],
)
def test_the_weights_of_the_official_recipe_are_asked_for(name, asked, monkeypatch):
    def no_network(weights, pretrained, **parts):
        assert (weights, pretrained) == (asked, True)
        raise UserError("out of reach")

    monkeypatch.setattr(backbone, "create_timm_network", no_network)
    with pytest.raises(UserError, match="out of reach"):
        Backbone(name)
