import copy

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from projects.qpic.predictor import InteractionDetector

MAPPER = {"_target_": "projects.qpic.QpicMapper", "training": False}


@pytest.fixture
def config():
    """Of the small QPIC, with too many classes and a backbone that would be fetched."""
    sizes = {"num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "ffn_dim": 48}
    model = {"_target_": "projects.qpic.build_model", "backbone": "resnet10", "num_queries": 5}
    model |= {"embed_dim": "${dataset.width}", "pretrained_backbone": True}
    model |= {"num_object_classes": 7, "num_verb_classes": 9}
    return OmegaConf.create(
        {
            "dataset": {"width": 32},
            "model": {**model, **sizes},
            "dataloader": {"test": {"mapper": MAPPER}},
            "train": {"device": "cpu"},
        }
    )


@pytest.fixture
def weights(small_qpic, tmp_path):
    path = tmp_path / "qpic.pth"
    torch.save({"model": small_qpic().state_dict()}, path)
    return str(path)


def test_the_callers_config_stays_as_it_was(config, weights, small_qpic, capsys):
    before = copy.deepcopy(config)
    detector = InteractionDetector.load(config, weights)
    assert config == before
    assert OmegaConf.to_container(config) == OmegaConf.to_container(before)  # not resolved either
    torch.testing.assert_close(detector.model.state_dict(), small_qpic().state_dict())
    assert list(detector.object_names) == ["object 0", "object 1", "object 2"]
    assert weights in capsys.readouterr().out


def test_interactions_of_a_file_are_those_of_the_model(config, weights, tmp_path):
    detector = InteractionDetector.load(config, weights)
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((40, 60, 3), 90, np.uint8))
    found = detector.predict(path)
    with torch.no_grad():
        (expected,) = detector.model([detector.mapper({"file_name": path})])
    torch.testing.assert_close(found, expected)
    assert found["sub_boxes"].shape == (5, 4) and not found["verb_scores"].requires_grad
