import copy

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from projects.detr.predictor import Detector, class_names

MAPPER = {"_target_": "projects.detr.DetrMapper", "training": False}


@pytest.fixture
def config():
    """Of the small DETR, with four classes too many and a backbone that would be fetched."""
    sizes = {"num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "ffn_dim": 48}
    model = {"_target_": "projects.detr.build_model", "backbone": "resnet10", "num_queries": 5}
    model |= {"embed_dim": "${dataset.width}", "num_classes": 7, "pretrained_backbone": True}
    return OmegaConf.create(
        {
            "dataset": {"width": 32, "test": {"annotations": "nowhere.json"}},
            "model": {**model, **sizes},
            "dataloader": {"test": {"mapper": MAPPER}},
            "train": {"device": "cpu"},
        }
    )


@pytest.fixture
def weights(small_detr, tmp_path):
    path = tmp_path / "detr.pth"
    torch.save({"model": small_detr().state_dict()}, path)
    return str(path)


def test_the_callers_config_stays_as_it_was(config, weights, small_detr, capsys):
    before = copy.deepcopy(config)
    detector = Detector.load(config, weights)
    assert config == before
    assert OmegaConf.to_container(config) == OmegaConf.to_container(before)  # not resolved either
    torch.testing.assert_close(detector.model.state_dict(), small_detr().state_dict())
    assert list(detector.names) == ["class 0", "class 1", "class 2"]
    assert weights in capsys.readouterr().out


def test_detections_of_a_file_are_those_of_the_model_with_names(config, weights, tmp_path):
    detector = Detector.load(config, weights)
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((40, 60, 3), 90, np.uint8))
    found = detector.predict(path)
    with torch.no_grad():
        (expected,) = detector.model([detector.mapper({"file_name": path})])
    assert found.pop("names") == [f"class {label}" for label in expected["labels"].tolist()]
    torch.testing.assert_close(found, expected)
    assert found["boxes_xyxy"].shape == (5, 4) and not found["scores"].requires_grad


def test_class_names(write_coco):
    annotations = str(write_coco()[1])
    assert class_names(2, annotations) == ["tree", "ship"]
    assert class_names(3, annotations) == ["class 0", "class 1", "class 2"]
    coco = class_names(91, "nowhere.json")
    assert (len(coco), coco[1], coco[90]) == (91, "person", "toothbrush")
