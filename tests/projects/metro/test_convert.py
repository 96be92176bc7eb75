import json
import os
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from dropkey_core.engine import UserError
from dropkey_core.engine.checkpoint import load_state
from projects.metro.build import build_model
from projects.metro.convert import metro_from_official
from projects.metro.metro import template_tokens
from tests.projects.metro import plain_metro, smpl_like

REFERENCE_KEYS = os.environ.get("DROPKEY_REFERENCE_KEYS", "")
SIZES = {"embed_dims": [32, 16, 8], "token_dims": [12, 8], "num_layers": 2, "ffn_dim": 24}


def names_of_resnet(module):
    """The weights of torchvision's ResNet as the official METRO holds it."""
    body = torch.nn.Sequential(*list(module.children())[:-2])
    return {f"backbone.{name}": tensor for name, tensor in body.state_dict().items()}


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None).eval()


@pytest.fixture
def official(resnet):
    """Random weights of the official network for the toy body, 64 pixels and ResNet-50."""
    torch.manual_seed(1)
    weights = plain_metro.official_state((60, 20, 8), num_cells=4, **SIZES)
    return {**names_of_resnet(resnet), **weights}


@pytest.mark.slow
def test_outputs_are_those_of_the_official_network_written_out(
    official, resnet, small_metro, toy_body
):
    converted, _ = metro_from_official(official)
    model = small_metro(backbone="resnet50", **SIZES).eval()
    model.load_state_dict(converted)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = torch.nn.Sequential(*list(resnet.children())[:-2])(images)
        torch.testing.assert_close(model.backbone(images), features)
        found = predict_behind_the_backbone(model.double(), features.double())
        camera, joints, meshes = plain_metro.predict(
            {name: tensor.double() for name, tensor in official.items()},
            features.double(),
            template_tokens(toy_body).double(),
            num_layers=2,
        )
    # Double precision: only another order of the same sums is left.
    torch.testing.assert_close(found["camera"], camera, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found["joint_tokens"], joints, rtol=1e-9, atol=1e-9)
    for mesh, expected in zip(found["meshes"], meshes, strict=True):
        torch.testing.assert_close(mesh, expected, rtol=1e-9, atol=1e-9)


def predict_behind_the_backbone(model, features):
    """What the model makes of a feature map."""
    model.backbone.forward = lambda images: features
    return model.predict_batch(torch.empty(len(features), 3, 64, 64))


def test_what_stays_behind_is_named(official):
    converted, said = metro_from_official(official)
    assert said[0] == f"converted: {len(converted)} tensors"
    assert "never uses them: 12 tensors, 2,072 numbers: " in said[1]
    for i in range(3):
        assert f"trans_encoder.{i}.bert.pooler.dense.bias" in said[1]
        assert f"trans_encoder.{i}.bert.embeddings.word_embeddings.weight" in said[1]
        assert f"trans_encoder.{i}.bert.position_embeddings" not in said[1]
    assert len(said) == 2


def test_what_is_written_holds_no_more_than_it_shows(official):
    converted, _ = metro_from_official(official)
    position = converted["blocks.0.position"]
    assert position.shape == (22, 32)
    assert position.untyped_storage().nbytes() == position.nbytes


def drop(state, name):
    del state[name]


def cut(state, name):
    state[name] = state[name][:-1]


ATTENTION = "trans_encoder.1.bert.encoder.layer.1.attention.self.key.weight"


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (drop, "backbone.7.2.bn3.weight", r"missing: 1 \(backbone.body.layer4.2.bn3.weight\)"),
        (drop, ATTENTION, r"blocks.1.layers.1.self_attn.in_proj_weight \(32, 16\) instead of \(48"),
        (
            cut,
            "trans_encoder.2.cls_head.weight",
            r"blocks.2.head.weight \(2, 8\) instead of \(3, 8",
        ),
        (drop, "upsampling2.weight", r"missing: 1 \(upsampling.steps.1.weight\)"),
        (lambda state, name: state.update({name: torch.ones(1)}), "other", r"ted: 1 \(other\)"),
    ],
)
def test_damage_is_named_when_they_are_loaded(official, small_metro, change, name, message):
    change(official, name)
    converted, _ = metro_from_official(official)
    with pytest.raises(UserError, match=message):
        load_state(small_metro(backbone="resnet50", **SIZES), converted, "official.pth")


def test_other_weights_are_refused(small_metro):
    with pytest.raises(UserError, match="of this project's METRO already"):
        metro_from_official(small_metro().state_dict())
    with pytest.raises(UserError, match=r"not the weights of the official METRO body: there is no"):
        metro_from_official({"fc.weight": torch.zeros(2)})
    with pytest.raises(UserError, match="weights of the official METRO for hands"):
        metro_from_official({"upsampling.weight": torch.zeros(778, 195)})


@pytest.mark.slow
def test_hrnet_keeps_its_names(official):
    weights = {name: t for name, t in official.items() if not name.startswith("backbone.")}
    with torch.device("meta"):
        hrnet = timm.create_model("hrnet_w18", pretrained=False, num_classes=1000)
    for name, tensor in hrnet.state_dict().items():
        weights[f"backbone.{name}"] = torch.randn(tensor.shape)
    converted, said = metro_from_official(weights)
    assert "backbone.classifier.weight, backbone.classifier.bias" in said[1]
    name = "stage4.2.fuse_layers.3.0.2.0.weight"
    assert torch.equal(converted[f"backbone.body.{name}"], weights[f"backbone.{name}"])


@pytest.mark.skipif(not REFERENCE_KEYS, reason="DROPKEY_REFERENCE_KEYS names no folder")
def test_the_official_checkpoints_names_and_shapes(monkeypatch):
    table = json.loads((Path(REFERENCE_KEYS) / "metro_body_network_keys.json").read_text())
    monkeypatch.setattr("projects.metro.build.read_body", lambda path: smpl_like.body())
    with torch.device("meta"):
        official = {name: torch.empty(shape) for name, (shape, *_) in table["keys"].items()}
        ours = build_model("smpl.npz", pretrained_backbone=False).state_dict()
    converted, said = metro_from_official(official)
    shapes = [{name: t.shape for name, t in state.items()} for state in (converted, ours)]
    assert shapes[0] == shapes[1]
    left = said[1].rsplit(": ", 1)[1].split(", ")
    assert sorted(left) == sorted(table["keys_never_used_in_forward"])
