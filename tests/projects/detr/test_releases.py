import argparse
import hashlib
import re

import pytest
import torch

from dropkey_core.engine import UserError, load_weights
from projects.detr.releases import RELEASES, OfficialWeights

DC5 = OfficialWeights("DETR-DC5", "resnet50", dilation=True)
PLAIN = OfficialWeights("DETR", "resnet101", dilation=False)
STRIDE_16 = (
    "holds weights of DETR-DC5, whose feature map has stride 16: set model.dilation=true "
    "(model.backbone=resnet50)"
)
STRIDE_32 = (
    "holds weights of DETR, whose feature map has stride 32: set model.dilation=false "
    "(model.backbone=resnet101)"
)


@pytest.fixture
def write(small_detr, tmp_path, monkeypatch):
    """Writes a tiny DETR's weights, as a published file if a release is given; returns the path."""

    def written(release=None, **more):
        path = tmp_path / "renamed.pth"
        torch.save({"model": small_detr().state_dict(), **more}, path)
        if release:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            monkeypatch.setitem(RELEASES, digest[:8], release)
        return path

    return written


@pytest.fixture
def detr(small_detr):
    """Builds a DETR of the same names and shapes, dilated or not.

    The small ResNet has no blocks that can be dilated, so it only says that it is.
    """

    def build(dilation):
        model = small_detr()
        model.backbone[0].dilation = dilation
        return model

    return build


@pytest.mark.parametrize(("release", "text"), [(DC5, STRIDE_16), (PLAIN, STRIDE_32)])
def test_a_release_of_the_other_stride_is_refused_under_any_name(write, detr, release, text):
    path = write(release)
    with pytest.raises(UserError) as error:
        load_weights(detr(not release.dilation), path)
    assert str(error.value) == f"{path} (from --weights) {text}"
    assert load_weights(detr(release.dilation), path).startswith("loaded ")


@pytest.mark.parametrize("dilation", [False, True])
def test_weights_that_say_nothing_of_it_are_loaded(write, detr, dilation):
    nobodys = {"dilation": not dilation}
    for said in ({}, {"args": argparse.Namespace(lr=1e-4)}, {"args": nobodys}):
        assert load_weights(detr(dilation), write(**said)).startswith("loaded ")


@pytest.mark.parametrize(("release", "text"), [(DC5, STRIDE_16), (PLAIN, STRIDE_32)])
def test_training_checkpoints_of_the_official_code_say_it_themselves(write, detr, release, text):
    _, backbone, dilation = release
    path = write(args=argparse.Namespace(dilation=dilation, backbone=backbone, lr=1e-4))
    kind = f"a model {'with' if dilation else 'without'} dilation, {text.partition(', ')[2]}"
    with pytest.raises(UserError, match=re.escape(f"holds weights of {kind}")):
        load_weights(detr(not dilation), path)
    assert load_weights(detr(dilation), path).startswith("loaded ")


def test_a_fetched_release_is_refused_too(write, detr, tmp_path, monkeypatch):
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    write(DC5).rename(hub / "detr.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^https://x\.org/detr\.pth \(from .*\) holds weights of"):
        load_weights(detr(False), "https://x.org/detr.pth")
