import importlib
import sys

import pytest
import torch
from torch import nn

import dropkey_core
from dropkey_core import apply_dropkey, check_dropkey
from dropkey_core.engine import UserError, load_config

DETECTRON2 = importlib.util.find_spec("detectron2") is not None
needs_detectron2 = pytest.mark.skipif(not DETECTRON2, reason="detectron2 is not installed")
if DETECTRON2:
    from detectron2.modeling import MViT, SwinTransformer, ViT
    from detectron2.structures import Boxes, Instances

    from dropkey_core import detectron2 as bridge


class Finder(nn.Module):
    """Finds what it is told to, and judges by the boxes and labels it gets."""

    def __init__(self, **found):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.found = found

    def forward(self, samples):
        if not self.training:
            return [dict(self.found) for _ in samples]
        return {
            "loss_boxes": sum(sample["boxes_cxcywh"].sum() for sample in samples),
            "loss_labels": sum(sample["labels"].sum() for sample in samples),
        }


@pytest.fixture
def finder():
    return Finder(
        scores=torch.tensor([0.9, 0.5, 0.2]),
        labels=torch.tensor([7, 3, 2]),
        boxes_xyxy=torch.tensor([[1.0, 2, 30, 40], [-5, 0, 5, 9], [0, 0, 1, 1]]),
    )


@pytest.fixture
def sample():
    """An image of 20 x 40 pixels, 100 x 200 before it was resized, with two objects."""
    true = Instances((20, 40))
    true.gt_boxes = Boxes([[4, 5, 8, 15], [0, 0, 40, 20]])
    true.gt_classes = torch.tensor([2, 0])
    image = torch.zeros((3, 20, 40), dtype=torch.uint8)
    return {"image": image, "height": 100, "width": 200, "instances": true}


@pytest.fixture
def without_detectron2(monkeypatch):
    """As on a machine that has not got it."""
    for name in [*sys.modules]:
        if name.startswith(("detectron2", "dropkey_core.detectron2")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(dropkey_core, "detectron2", raising=False)
    monkeypatch.setitem(sys.modules, "detectron2", None)


def test_without_detectron2_the_error_says_where_it_is_from(without_detectron2):
    with pytest.raises(ImportError, match=r"needs detectron2.*install.html.*setuptools<82"):
        importlib.import_module("dropkey_core.detectron2")


def test_without_detectron2_a_config_with_it_is_refused_in_one_line(without_detectron2, toy_folder):
    with pytest.raises(UserError, match=r"^model\._target_: .*needs detectron2.*setuptools<82"):
        load_config("toy.yaml", ["model._target_=dropkey_core.detectron2.with_instances"])


@needs_detectron2
def test_predictions_are_instances_of_the_original_image(finder, sample):
    bridge.with_instances(finder).eval()
    found = finder([sample])[0]["instances"]
    assert found.image_size == (100, 200)
    assert found.pred_classes.tolist() == [7, 3, 2]
    torch.testing.assert_close(found.scores, finder.found["scores"])
    torch.testing.assert_close(found.pred_boxes.tensor, finder.found["boxes_xyxy"])


@needs_detectron2
def test_a_sample_without_height_and_width_is_its_own_original(finder, sample):
    found = bridge.with_instances(finder).eval()([{"image": sample["image"]}])
    assert found[0]["instances"].image_size == (20, 40)


@needs_detectron2
def test_classes_are_numbered_without_gaps(finder, sample):
    bridge.with_instances(finder, class_indices=[3, 5, 7]).eval()
    found = finder([sample])[0]["instances"]
    assert found.pred_classes.tolist() == [2, 0]  # the model's 7 and 3; 2 stands for nothing
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.pred_boxes.tensor.tolist() == [[1, 2, 30, 40], [-5, 0, 5, 9]]


@needs_detectron2
def test_instances_become_targets(sample):
    ours = bridge.our_sample(sample, bridge.Classes([3, 5, 7]))
    expected = torch.tensor([[6 / 40, 10 / 20, 4 / 40, 10 / 20], [0.5, 0.5, 1, 1]])
    torch.testing.assert_close(ours["boxes_cxcywh"], expected)
    assert ours["labels"].tolist() == [7, 3]
    assert "boxes_cxcywh" not in sample


@needs_detectron2
def test_losses_stay_losses(finder, sample):
    losses = bridge.with_instances(finder, class_indices=[3, 5, 7])([sample])
    assert losses["loss_labels"] == 7 + 3
    assert losses["loss_boxes"] == pytest.approx(0.15 + 0.5 + 0.1 + 0.5 + 3)


@needs_detectron2
def test_labels_of_our_mapper_are_numbered_without_gaps_too():
    sample = {"image": torch.zeros(3, 4, 4), "labels": torch.tensor([0, 1])}
    assert bridge.our_sample(sample, bridge.Classes([3, 5]))["labels"].tolist() == [3, 5]


@needs_detectron2
@pytest.mark.parametrize("label", [2, -1])
def test_a_class_that_detectron2_has_not_is_refused(label):
    sample = {"image": torch.zeros(3, 4, 4), "labels": torch.tensor([label])}
    with pytest.raises(UserError, match="0 to 1 without gaps"):
        bridge.our_sample(sample, bridge.Classes([3, 5]))


@needs_detectron2
def test_parameters_keep_their_names(finder):
    before = list(finder.state_dict())
    assert list(bridge.with_instances(finder).state_dict()) == before


@needs_detectron2
def test_a_model_without_boxes_is_refused(sample):
    model = bridge.with_instances(Finder(logits=torch.zeros(3))).eval()
    with pytest.raises(UserError, match=r"this model returns logits, not scores, labels, boxes"):
        model([sample])


@needs_detectron2
def test_arguments_of_a_builder_as_a_node_of_yacs():
    def build(width=3, sites=("a", "b"), name="x", ratio=None):
        raise NotImplementedError

    node = bridge.arguments_node(build)
    node.merge_from_list(["WIDTH", 5, "SITES", ("b",)])
    expected = {"width": 5, "sites": ("b",), "name": "x", "ratio": None}
    assert bridge.arguments_of(node) == expected


def vit():
    """Windowed and global attention with relative positions, as of ViTDet."""
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
    windows = {"window_size": 4, "window_block_indexes": [0, 1], "use_rel_pos": True}
    return ViT(**sizes, **windows, drop_path_rate=0.0, out_feature="last_feat")


def swin():
    sizes = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    return SwinTransformer(**sizes, drop_path_rate=0.0, out_indices=(1,))


def mvit():
    sizes = {"img_size": 64, "embed_dim": 16, "depth": 4, "num_heads": 1, "use_rel_pos": True}
    places = {"last_block_indexes": (0, 1, 2, 3), "out_features": ("scale3",)}
    return MViT(**sizes, **places, drop_path_rate=0.0)


@needs_detectron2
@pytest.mark.parametrize(("build", "num_sites"), [(vit, 3), (swin, 4), (mvit, 4)])
def test_dropkey_in_backbones_of_detectron2(build, num_sites):
    torch.manual_seed(0)
    backbone = build().eval()
    images = torch.randn(2, 3, 64, 64)
    (before,) = backbone(images).values()
    report = apply_dropkey(backbone, 0.4, "constant")
    assert len(report.equipped) == num_sites and not report.left_out
    (after,) = backbone(images).values()
    assert torch.equal(after, before)
    check = check_dropkey(backbone.train(), images)
    assert [site.lost for site in check.sites] == pytest.approx([0.4] * num_sites, abs=0.05)
    assert not check.uncovered and check.evaluation_difference == 0.0
