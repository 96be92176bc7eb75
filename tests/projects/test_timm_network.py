import pytest
import timm

from dropkey_core.engine import UserError
from projects.timm_network import create_timm_network


def test_a_name_of_weights_does_not_matter_without_them():
    network = create_timm_network("resnet10t.nobody_made_these", False, num_classes=3)
    assert network.fc.out_features == 3


def test_weights_that_nobody_made():
    with pytest.raises(UserError, match=r"timm has no weights resnet10t\.nobody_made_these: set"):
        create_timm_network("resnet10t.nobody_made_these", True)


def test_settings_go_along_with_the_weights(monkeypatch):
    asked = {}
    monkeypatch.setattr(timm, "create_model", lambda name, **kw: asked.update(kw, name=name))
    create_timm_network("resnet10t", True, num_classes=3)
    assert asked == {"name": "resnet10t", "pretrained": True, "num_classes": 3}


def test_weights_out_of_reach_are_one_line(monkeypatch):
    def unreachable(name, **settings):
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(timm, "create_model", unreachable)
    message = r"cannot fetch the weights resnet10t .*\(no route to host\): copy .*=false$"
    with pytest.raises(UserError, match=message):
        create_timm_network("resnet10t", True)
