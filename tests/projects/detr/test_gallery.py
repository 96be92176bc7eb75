import copy

import pytest
import torch
from omegaconf import OmegaConf

from projects.detr.gallery import load_detector

MAPPER = {"_target_": "projects.detr.DetrMapper", "training": False}


@pytest.fixture
def config():
    """Of the small DETR, with four classes too many and a backbone that would be fetched."""
    sizes = {"num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "ffn_dim": 48}
    model = {"_target_": "projects.detr.build_model", "backbone": "resnet10", "num_queries": 5}
    model |= {"embed_dim": "${dataset.width}", "num_classes": 7, "pretrained_backbone": True}
    return OmegaConf.create(
        {
            "dataset": {"width": 32},
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
    detector = load_detector(config, weights, "nowhere.json")
    assert config == before
    assert OmegaConf.to_container(config) == OmegaConf.to_container(before)  # not resolved either
    torch.testing.assert_close(detector.model.state_dict(), small_detr().state_dict())
    assert list(detector.names) == ["class 0", "class 1", "class 2"]
    assert weights in capsys.readouterr().out
