import dataclasses
import inspect
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from projects.detr.build import BodySettings
from projects.detr.build import build_model as build_detr
from projects.qpic.build import build_model

REFERENCE_KEYS = os.environ.get("DROPKEY_REFERENCE_KEYS", "")

# What the official ResNet-50 checkpoint holds beside DETR's body.
OFFICIAL_HEADS = {
    "obj_class_embed.weight": (81, 256),
    "obj_class_embed.bias": (81,),
    "verb_class_embed.weight": (117, 256),
    "verb_class_embed.bias": (117,),
    **{
        f"{box}_bbox_embed.layers.{layer}.{kind}": shape
        for box in ("sub", "obj")
        for layer, width in enumerate((256, 256, 4))
        for kind, shape in (("weight", (width, 256)), ("bias", (width,)))
    },
}
# Settings of DETR that QPIC does not have.
DETR_ALONE = {"backbone_top_down", "query_boxes"}

DETR_HEADS = ("class_embed.", "bbox_embed.")


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_has_the_official_entries():
    """DETR's body, entry by entry, and the four heads."""
    with torch.device("meta"):
        entries = shapes(build_model(pretrained_backbone=False))
        detr = shapes(build_detr(pretrained_backbone=False))
    body = {name: shape for name, shape in detr.items() if not name.startswith(DETR_HEADS)}
    assert entries == {**body, **OFFICIAL_HEADS}
    assert len(entries) == 466


@pytest.mark.skipif(not REFERENCE_KEYS, reason="DROPKEY_REFERENCE_KEYS names no folder")
@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet101", "qpic_resnet50"])
def test_equals_the_official_table(name):
    """Against <folder>/<name>_keys.json: {"shapes": {name: shape}, ...}."""
    table = json.loads((Path(REFERENCE_KEYS) / f"{name}_keys.json").read_text(encoding="utf-8"))
    project, backbone = name.split("_")
    with torch.device("meta"):
        build = build_detr if project == "detr" else build_model
        model = build(backbone, pretrained_backbone=False)
    assert shapes(model) == {name: tuple(shape) for name, shape in table["shapes"].items()}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert sorted(frozen) == sorted(table["frozen_parameter_keys"])


@pytest.mark.parametrize("build", [build_detr, build_model])
def test_all_settings_of_the_body_can_be_given_and_arrive(build, monkeypatch):
    """Same types and defaults in both projects, and each value under its own name."""
    given = inspect.signature(build).parameters
    fields = [field for field in dataclasses.fields(BodySettings) if field.name in given]
    left_out = {field.name for field in dataclasses.fields(BodySettings)} - given.keys()
    assert left_out == (set() if "num_classes" in given else DETR_ALONE)
    for field in fields:
        assert given[field.name].annotation == field.type
        assert given[field.name].default == field.default
    told = []
    module = sys.modules[build.__module__]
    monkeypatch.setattr(module, "build_body", told.append)
    for name in ("Detr", "Qpic"):
        monkeypatch.setattr(module, name, lambda *parts: None, raising=False)
    values = {field.name: object() for field in fields} | {"query_boxes": False}  # looked at
    values = {name: value for name, value in values.items() if name in given}
    values["drop_sites"] = ["encoder_self"]
    build(**values)
    assert told == [BodySettings(**values)]


def test_settings_of_the_loss_arrive(small_qpic):
    names = ("object_weight", "verb_weight", "l1_weight", "giou_weight", "no_object_weight")
    settings = {name: 0.5 + number for number, name in enumerate(names)}
    loss = small_qpic(**settings).loss
    assert {name: getattr(loss, name) for name in names} == settings
