import importlib.util
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from dropkey_core.engine import UserError
from projects.detr import CocoEvaluator, DetrMapper, load_coco
from projects.detr.coco import COCO_CATEGORY_IDS, read_categories
from tests.projects.detr.conftest import SMALL_BODY

INSTALLED = importlib.util.find_spec("detectron2") is not None
pytestmark = pytest.mark.skipif(not INSTALLED, reason="detectron2 is not installed")
if INSTALLED:
    from detectron2.config import get_cfg
    from detectron2.data import (
        DatasetCatalog,
        DatasetMapper,
        MetadataCatalog,
        build_detection_train_loader,
    )
    from detectron2.data.datasets import register_coco_instances
    from detectron2.engine import DefaultPredictor
    from detectron2.evaluation import COCOEvaluator
    from detectron2.modeling import build_model as build_their_model
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.visualizer import Visualizer

    from dropkey_core.detectron2 import with_instances
    from projects.detr.detectron2 import add_dropkey_detr_config, build_detector

COCO_CATEGORIES = [{"id": n, "name": f"category {n}"} for n in sorted(COCO_CATEGORY_IDS)]


@pytest.fixture
def registered():
    """Registers a COCO-format set with detectron2 and returns its name."""
    names = []

    def register(images, annotations):
        names.append(f"set_{len(names)}")
        register_coco_instances(names[-1], {}, str(annotations), str(images))
        DatasetCatalog.get(names[-1])  # only now detectron2 knows the classes
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg():
    """detectron2's config of a small DETR."""
    cfg = get_cfg()
    add_dropkey_detr_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "build_dropkey_detr"
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 64
    for name, value in {**SMALL_BODY, "num_classes": 3}.items():
        cfg.MODEL.DROPKEY_DETR[name.upper()] = value
    return cfg


class Sloppy(nn.Module):
    """Finds what is there, moved a little and with some of the classes wrong."""

    def __init__(self, records, num_classes):
        super().__init__()
        self.records = {record["image_id"]: record for record in records}
        self.num_classes = num_classes

    def forward(self, samples):
        return [self.find(self.records[sample["image_id"]]) for sample in samples]

    def find(self, record):
        torch.manual_seed(record["image_id"])
        true = record["annotations"]
        boxes_xywh = torch.tensor([one["bbox"] for one in true]).reshape(-1, 4)
        low = boxes_xywh[:, :2] + torch.randn(len(true), 2)
        labels = torch.tensor([one["category_id"] for one in true], dtype=torch.int64)
        wrong = torch.rand(len(true)) < 0.2
        labels[wrong] = torch.randint(self.num_classes, (int(wrong.sum()),))
        boxes_xyxy = torch.cat([low, low + boxes_xywh[:, 2:]], 1)
        return {"scores": torch.rand(len(true)), "labels": labels, "boxes_xyxy": boxes_xyxy}


def annotations_of(categories, count=24):
    """Boxes on conftest's two images, which reach over their edges here and there."""
    random = np.random.default_rng(0)
    for number in range(count):
        image_id, width, height = ((11, 60, 40), (5, 30, 50))[number % 2]
        box = [*(random.random(2) * (width, height)), *random.uniform(4, 20, 2)]
        yield {
            "id": number + 1,
            "image_id": image_id,
            "category_id": int(random.choice([category["id"] for category in categories])),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(number == 3),
        }


@pytest.mark.parametrize(
    "categories",
    [[{"id": 7, "name": "ship"}, {"id": 2, "name": "tree"}], COCO_CATEGORIES],
    ids=["own", "COCO's"],
)
def test_both_evaluators_measure_the_same(categories, write_coco, registered, tmp_path):
    annotations = list(annotations_of(categories))
    images, file = write_coco(categories=categories, annotations=annotations)
    numbering = read_categories(file)
    records = load_coco(images, file)
    model = Sloppy(records, numbering.num_classes).eval()
    ours, theirs = CocoEvaluator(file), COCOEvaluator(registered(images, file), ("bbox",), False)
    theirs.reset()
    for record in records:
        ours.process([record], model([record]))
    class_indices = [numbering.class_index(number) for number in numbering.names]
    with_instances(model, class_indices)
    for record in records:
        theirs.process([record], model([{"image": torch.zeros(3, 4, 4), **record}]))
    expected = ours.evaluate()["bbox"]
    measured = theirs.evaluate()["bbox"]
    assert 10 < expected["AP"] < 90
    assert len(measured) == 6 + len(categories)
    for name, value in measured.items():
        both_nan = math.isnan(value) and math.isnan(expected[name])
        assert both_nan or value == pytest.approx(expected[name], abs=1e-9), name


def test_predictor_finds_in_the_original_image_what_the_model_finds(cfg, small_detr, tmp_path):
    model = small_detr().eval()
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    bgr = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    found = DefaultPredictor(cfg)(bgr)["instances"]
    image = torch.from_numpy(bgr[:, :, ::-1].copy()).permute(2, 0, 1)
    with torch.no_grad():
        (expected,) = model([{"image": image, "height": 64, "width": 48}])
    assert found.image_size == (64, 48)
    torch.testing.assert_close(found.pred_boxes.tensor, expected["boxes_xyxy"])
    torch.testing.assert_close(found.scores, expected["scores"])
    assert found.pred_classes.tolist() == expected["labels"].tolist()
    drawn = Visualizer(bgr[:, :, ::-1], scale=1).draw_instance_predictions(found).get_image()
    assert (drawn != bgr[:, :, ::-1]).any()


def test_an_image_that_is_resized_gets_its_boxes_in_its_own_pixels(cfg):
    found = DefaultPredictor(cfg)(np.zeros((320, 160, 3), np.uint8))["instances"]
    assert found.image_size == (320, 160)
    assert found.pred_boxes.tensor[:, 3].max() > 64  # the height that the model saw


def test_published_backbone_weights_are_not_fetched_where_others_follow(cfg, tmp_path):
    cfg.MODEL.DROPKEY_DETR.PRETRAINED_BACKBONE = True  # resnet10 has none: it would be refused
    with pytest.raises(UserError):
        build_their_model(cfg)
    cfg.MODEL.WEIGHTS = "weights.pth"
    build_their_model(cfg)


def test_the_options_for_small_sets_train_and_detect(cfg):
    options = {"query_boxes": True, "select_queries": True, "focal": True, "backbone_top_down": 1}
    for name, value in options.items():
        cfg.MODEL.DROPKEY_DETR[name.upper()] = value
    model = build_their_model(cfg)
    found = Instances((64, 96))
    found.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 40.0, 50.0]]))
    found.gt_classes = torch.tensor([1])
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    sample = {"image": image, "height": 64, "width": 96, "instances": found}
    losses = model.train()([sample])
    assert {"loss_ce", "cells_loss_ce"} <= losses.keys()
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        assert len(model.eval()([sample])[0]["instances"]) == 5


def test_images_of_other_channel_order_are_refused(cfg):
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(UserError, match=r"INPUT\.FORMAT must be RGB for DETR, got BGR"):
        build_their_model(cfg)


def test_our_mapper_in_their_loader(write_coco, registered):
    images, file = write_coco()
    name = registered(images, file)
    loader = build_detection_train_loader(
        DatasetCatalog.get(name),
        mapper=DetrMapper(training=True, min_sizes=[32], crop_probability=0),
        total_batch_size=1,
        aspect_ratio_grouping=False,
    )
    samples = {sample["image_id"]: sample for (sample,) in itertools.islice(loader, 4)}
    assert samples[11]["labels"].tolist() == [1]  # category 7, the second of 2 and 7
    assert samples[11]["image"].shape == (3, 32, 48)
    assert samples[5]["labels"].tolist() == []


def test_their_mapper_and_ours_give_the_same_losses(write_coco, registered):
    changes = json.loads(json.dumps({"annotations": list(annotations_of([{"id": 7}], count=6))}))
    images, file = write_coco(**changes)
    name = registered(images, file)
    theirs = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    ours = DetrMapper(training=True, min_sizes=[40], flip_probability=0, crop_probability=0)
    record = next(r for r in DatasetCatalog.get(name) if r["image_id"] == 11)
    torch.manual_seed(0)
    model = build_detector(**SMALL_BODY, num_classes=2, dropout=0.0, drop_ratio=0.0)
    expected = model([ours(record)])
    for name, loss in model([theirs(record)]).items():
        torch.testing.assert_close(loss, expected[name], msg=name)


def test_a_model_of_the_official_numbering_sees_cocos_80_classes():
    torch.manual_seed(0)
    model = build_detector(**SMALL_BODY, num_classes=91).eval()
    nn.init.zeros_(model.class_embed.weight)
    model.class_embed.bias.data = torch.full((92,), -9.0).index_fill(0, torch.tensor([90]), 9.0)
    image = torch.zeros((3, 32, 32), dtype=torch.uint8)
    found = model([{"image": image}])[0]["instances"]
    assert found.pred_classes.tolist() == [79] * 5  # toothbrush
    model.class_embed.bias.data.copy_(torch.full((92,), -9.0).index_fill(0, torch.tensor([12]), 9))
    assert len(model([{"image": image}])[0]["instances"]) == 0  # a number that COCO never used
    true = {"labels": torch.tensor([80]), "boxes_cxcywh": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}
    with pytest.raises(UserError, match="0 to 79 without gaps, got 80"):
        model.train()([{"image": image, **true}])
