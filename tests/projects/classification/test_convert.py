import argparse

import pytest
import torch

from dropkey_core.engine import UserError
from dropkey_core.engine.checkpoint import load_weights
from projects.classification import build_model, convert
from projects.classification.convert import classifier_weights
from projects.classification.t2t import T2TViT

SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2, "token_dim": 8}


@pytest.fixture
def convert_classifier(load_script):
    """The command's way from a file to another one."""
    convert_checkpoint = load_script("tools/convert_checkpoint").convert_checkpoint
    return lambda source, target: convert_checkpoint(source, target, classifier_weights)


@pytest.fixture
def small_t2t(monkeypatch):
    """Weights of a T2T-ViT for 32 pixels and 5 classes, whose sizes count as official."""
    monkeypatch.setattr(convert, "T2T_SIZES", {"t2t_vit_2": SMALL})
    torch.manual_seed(0)
    return T2TViT(5, 32, **SMALL).state_dict()


def official_file(path, state, averaged=None):
    """A checkpoint as the official training script writes it."""
    averaged = {} if averaged is None else {"state_dict_ema": averaged}
    content = {"epoch": 3, "state_dict": state, **averaged, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, path)
    return path


def test_an_official_t2t_becomes_a_start(small_t2t, tmp_path, convert_classifier):
    source, target = official_file(tmp_path / "a.pth.tar", small_t2t), tmp_path / "b.pth"
    assert convert_classifier(source, target) == [
        f"converted: {len(small_t2t)} tensors of state_dict",
        "model.architecture=t2t_vit_2 model.num_classes=5 model.image_size=32",
    ]
    model = build_model("t2t_vit_14", 5, 32, architecture_options=SMALL)
    load_weights(model, target)
    torch.testing.assert_close(model.network.state_dict(), small_t2t, rtol=0, atol=0)


def test_averaged_weights_come_first_and_prefixes_go(small_t2t, tmp_path, convert_classifier):
    averaged = {f"module.{name}": tensor + 1 for name, tensor in small_t2t.items()}
    source = official_file(tmp_path / "a.pth.tar", small_t2t, averaged)
    said = convert_classifier(source, tmp_path / "b.pth")
    assert said[0].endswith("tensors of state_dict_ema")
    state = torch.load(tmp_path / "b.pth")["model"]
    torch.testing.assert_close(state["network.cls_token"], small_t2t["cls_token"] + 1)


def test_volo_is_taken_with_timms_names(tmp_path, convert_classifier):
    sizes = {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 32, 32], "num_heads": [2, 2, 2, 2]}
    network = build_model("volo", 4, 32, architecture_options=sizes).network
    torch.save(network.state_dict(), tmp_path / "volo.pth")  # some names begin with "network."
    said = convert_classifier(tmp_path / "volo.pth", tmp_path / "b.pth")
    assert said[0] == f"converted: {len(network.state_dict())} tensors of the file"
    other = build_model("volo", 4, 32, architecture_options=sizes)
    load_weights(other, tmp_path / "b.pth")
    torch.testing.assert_close(other.network.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_damaged_weights_are_refused(small_t2t, tmp_path, convert_classifier):
    del small_t2t["blocks.1.norm1.bias"]
    source = official_file(tmp_path / "a.pth.tar", small_t2t)
    message = r"an official t2t_vit_2 do not fit the model; missing: 1 \(blocks.1.norm1.bias\)"
    with pytest.raises(UserError, match=message):
        convert_classifier(source, tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


def test_what_cannot_be_converted_is_said(tiny, tmp_path, convert_classifier):
    ours, empty = tmp_path / "ours.pth", tmp_path / "empty.pth"
    torch.save({"model": tiny().state_dict()}, ours)
    torch.save({"epoch": 3}, empty)
    for source, target, message in (
        (ours, tmp_path / "b.pth", "this project's Classifier already"),
        (empty, tmp_path / "b.pth", "no weights in the checkpoint, neither below state_dict_ema"),
        (ours, ours, "would replace the checkpoint that is converted"),
    ):
        with pytest.raises(UserError, match=message):
            convert_classifier(source, target)
