"""The predictors of DETR and QPIC: a config and a checkpoint in, what the model finds out."""

import copy

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from projects.detr import Detector
from projects.detr.build import build_model as build_detr
from projects.detr.predictor import class_names
from projects.qpic import InteractionDetector
from projects.qpic.build import build_model as build_qpic
from tests.projects.detr.conftest import SMALL_BODY, write_coco  # noqa: F401, a fixture

DETR = (Detector, "projects.detr", "DetrMapper", build_detr, {"num_classes": 3})
SMALL_SET = {"query_boxes": True, "focal": True, "select_queries": True, "query_groups": 2}
BOXES = (*DETR[:4], {"num_classes": 3}, SMALL_SET)
QPIC = (InteractionDetector, "projects.qpic", "QpicMapper", build_qpic)
QPIC += ({"num_object_classes": 3, "num_verb_classes": 4},)


@pytest.fixture(params=[DETR, BOXES, QPIC], ids=["detr", "boxes", "qpic"])
def trained(request, tmp_path):
    """Predictor, config with other numbers of classes and a backbone to fetch, weights, model."""
    predictor, package, mapper, build, classes, *options = request.param
    body = {**SMALL_BODY, **(options[0] if options else {})}
    torch.manual_seed(0)
    model = build(**body, **classes)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    others = {**dict.fromkeys(classes, 7), "pretrained_backbone": True, "embed_dim": "${width}"}
    config = OmegaConf.create(
        {
            "width": SMALL_BODY["embed_dim"],
            "dataset": {"test": {"annotations": "nowhere.json"}},
            "model": {"_target_": f"{package}.build_model", **body, **others},
            "dataloader": {"test": {"mapper": {"_target_": f"{package}.{mapper}"}}},
            "train": {"device": "cpu"},
        }
    )
    config.dataloader.test.mapper.training = False
    return predictor, config, str(tmp_path / "weights.pth"), model


def test_weights_are_loaded_and_the_callers_config_stays_as_it_was(trained, capsys):
    predictor, config, weights, model = trained
    before = copy.deepcopy(config)
    loaded = predictor.load(config, weights).model
    assert OmegaConf.to_container(config) == OmegaConf.to_container(before)  # not resolved either
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())
    assert weights in capsys.readouterr().out


def test_what_is_found_on_a_file_is_what_the_model_finds(trained, tmp_path):
    detector = trained[0].load(*trained[1:3])
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((40, 60, 3), 90, np.uint8))
    found = detector.predict(path)
    with torch.no_grad():
        (expected,) = detector.model([detector.mapper({"file_name": path})])
    if isinstance(detector, Detector):
        assert found.pop("names") == [f"class {label}" for label in expected["labels"].tolist()]
    else:
        assert list(detector.object_names) == ["object 0", "object 1", "object 2"]
    torch.testing.assert_close(found, expected)
    assert all(len(values) == 5 and not values.requires_grad for values in found.values())


def test_class_names_of_detr(write_coco):  # noqa: F811
    annotations = str(write_coco()[1])
    assert class_names(2, annotations) == ["tree", "ship"]
    assert class_names(3, annotations) == ["class 0", "class 1", "class 2"]
    coco = class_names(91, "nowhere.json")
    assert (len(coco), coco[1], coco[90]) == (91, "person", "toothbrush")
