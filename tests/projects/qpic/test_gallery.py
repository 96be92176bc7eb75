import copy

import pytest
import torch
from omegaconf import OmegaConf

from projects.qpic.gallery import load_finder

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
    finder = load_finder(config, weights)
    assert config == before
    assert OmegaConf.to_container(config) == OmegaConf.to_container(before)  # not resolved either
    torch.testing.assert_close(finder.model.state_dict(), small_qpic().state_dict())
    assert list(finder.object_names) == ["object 0", "object 1", "object 2"]
    assert weights in capsys.readouterr().out
