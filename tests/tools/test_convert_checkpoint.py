import argparse
import json

import pytest
import torch
import torchvision

from projects.detr import Detector
from projects.detr.build import build_model
from tests.projects.metro import plain_metro

SIZES = {"embed_dim": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
SIZES |= {"ffn_dim": 16, "backbone": "resnet10", "pretrained_backbone": False, "num_queries": 3}


@pytest.fixture
def main(load_script):
    return load_script("tools/convert_checkpoint").main


@pytest.fixture
def detr_file(tmp_path):
    """A checkpoint of a tiny DETR with COCO's classes, as training writes it."""
    path = tmp_path / "detr.pth"
    torch.save({"model": build_model(**SIZES).state_dict(), "step": 3}, path)
    return path


def test_writes_a_start_and_says_how(main, detr_file, tmp_path, capsys):
    output = tmp_path / "start.pth"
    assert main(["qpic", str(detr_file), str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"written: {output}"
    assert lines[2:4] == [
        "object head: 80 of the 91 classes of DETR, and its 'no object'",
        "verb head: 117 classes, initialised anew (seed 0)",
    ]
    content = torch.load(output, weights_only=True)
    assert set(content) == {"model"}
    assert content["model"]["obj_class_embed.weight"].shape == (81, 16)
    assert content["model"]["verb_class_embed.bias"].shape == (117,)


@pytest.mark.parametrize("dilation", [False, True])
def test_a_start_from_detr_dc5_is_said_to_need_dilation(
    main, detr_file, tmp_path, capsys, dilation
):
    content = torch.load(detr_file, weights_only=True)
    settings = argparse.Namespace(dilation=dilation, backbone="resnet50")
    torch.save({**content, "args": settings}, detr_file)
    assert main(["qpic", str(detr_file), str(tmp_path / "start.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = "the feature map of this DETR has stride 16, which nothing in OUTPUT says: train with "
    assert (f"{told}model.dilation=true" in lines) == dilation
    assert len(lines) == 5 + dilation


def test_other_numbers_of_classes(main, detr_file, tmp_path):
    output = tmp_path / "start.pth"
    settings = ["--num-object-classes", "4", "--num-verb-classes", "6", "--seed", "5"]
    assert main(["qpic", str(detr_file), str(output), *settings]) == 0
    state = torch.load(output, weights_only=True)["model"]
    assert state["obj_class_embed.bias"].shape == (5,)
    assert state["verb_class_embed.weight"].shape == (6, 16)


def fail(main, capsys, *arguments):
    assert main(["qpic", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_code_in_the_file_is_refused(main, tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"model": Bomb()}, tmp_path / "bad.pth")
    error = fail(main, capsys, tmp_path / "bad.pth", tmp_path / "start.pth")
    assert "is refused: only tensors and plain values are loaded" in error
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "start.pth").exists()


def test_errors_in_one_line(main, detr_file, tmp_path, capsys):
    output = tmp_path / "start.pth"
    assert "no checkpoint at" in fail(main, capsys, tmp_path / "none.pth", output)
    assert "would replace the checkpoint" in fail(main, capsys, detr_file, detr_file)
    assert "it is a folder" in fail(main, capsys, tmp_path / "none.pth", tmp_path)  # told first
    assert "num_verb_classes" not in fail(main, capsys, output, output)
    assert main(["qpic", str(detr_file), str(output)]) == 0
    capsys.readouterr()
    already = fail(main, capsys, output, tmp_path / "again.pth")
    assert "there is no class_embed.weight; they are QPIC's already" in already


@pytest.fixture
def metro_file(tmp_path):
    """Random weights of a small official METRO with ResNet-50, as its training writes them."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet50(weights=None)
    body = torch.nn.Sequential(*list(resnet.children())[:-2]).state_dict()
    weights = plain_metro.official_state((60, 20, 8), 4, [8], [], 1, 8)
    path = tmp_path / "state_dict.bin"
    torch.save({**{f"backbone.{name}": tensor for name, tensor in body.items()}, **weights}, path)
    return path


def test_metro_is_translated_and_what_it_never_uses_named(main, metro_file, tmp_path, capsys):
    output = tmp_path / "metro.pth"
    assert main(["metro", str(metro_file), str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("converted: ")
    assert "never uses them: 4 tensors" in lines[1]
    assert lines[-1] == f"written: {output}"
    weights = torch.load(output, weights_only=True)["model"]
    assert weights["blocks.0.layers.0.self_attn.in_proj_weight"].shape == (24, 8)


def test_a_classifier_becomes_a_start_by_both_commands(main, tmp_path, capsys):
    weights = torch.nn.Linear(3, 2).state_dict()
    source, output = tmp_path / "published.pth", tmp_path / "start.pth"
    torch.save({"model": weights}, source)
    for command in ("classification", "t2t"):
        assert main([command, str(source), str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["converted: 2 tensors of model", f"written: {output}"]
    state = torch.load(output, weights_only=True)["model"]
    assert set(state) == {f"network.{name}" for name in weights}
    assert main(["t2t", str(tmp_path / "nowhere.pth"), str(output)]) == 2
    assert "no checkpoint at" in capsys.readouterr().err


def test_a_detr_goes_to_hugging_face_and_comes_back(main, tmp_path, capsys):
    torch.manual_seed(0)
    sizes = {**SIZES, "backbone": "resnet18", "num_classes": 3}
    state = build_model(**sizes).state_dict()
    mapper = {"_target_": "projects.detr.DetrMapper", "training": False}
    config = {"model": {"_target_": "projects.detr.build_model", **sizes}}
    config |= {"dataloader": {"test": {"mapper": mapper}}, "train": {"device": "cpu"}}
    torch.save({"model": state, "config": json.dumps(config)}, tmp_path / "detr.pth")
    assert main(["hugging-face", str(tmp_path / "detr.pth"), str(tmp_path / "folder")]) == 0
    assert "converted: a DETR of 3 classes" in capsys.readouterr().out
    assert main(["hugging-face", str(tmp_path / "folder"), str(tmp_path / "back.pth")]) == 0
    printed = capsys.readouterr().out
    assert "of a DETR of 3 classes: class 0, class 1, class 2" in printed
    assert "model.backbone=resnet18 model.dilation=False" in printed
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    torch.testing.assert_close(again["model"], dict(state), rtol=0, atol=0)
    detector = Detector.from_pretrained(tmp_path / "back.pth", device="cpu")  # needs no YAML
    assert detector.names == ["class 0", "class 1", "class 2"]
