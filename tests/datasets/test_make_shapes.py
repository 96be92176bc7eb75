import contextlib
import io
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from projects.detr import DetrMapper, load_coco, num_classes


@pytest.fixture(scope="module")
def make_shapes(load_script):
    return load_script("datasets/make_shapes")


@pytest.fixture(scope="module")
def shapes(make_shapes, tmp_path_factory):
    """A set of 150 + 10 images."""
    output = tmp_path_factory.mktemp("shapes")
    assert make_shapes.main(["--output", str(output), "--num-train", "150", "--num-val", "10"]) == 0
    return output


@pytest.fixture(scope="module")
def coco(shapes):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(shapes / "annotations" / "instances_train.json"))


def test_the_set_has_what_real_sets_have(coco):
    annotations = list(coco.anns.values())
    assert sorted(coco.cats) == [1, 3, 7]
    assert {annotation["category_id"] for annotation in annotations} == {1, 3, 7}
    assert {annotation["iscrowd"] for annotation in annotations} == {0, 1}
    assert any(not coco.getAnnIds(image_id) for image_id in coco.imgs)
    areas = np.array([annotation["area"] for annotation in annotations])
    assert (areas < 32**2).any() and (areas > 96**2).any()
    assert ((areas > 32**2) & (areas < 96**2)).any()
    assert len({(image["height"], image["width"]) for image in coco.imgs.values()}) > 100


def test_images_have_the_sizes_that_the_file_says(coco, shapes):
    for image in coco.imgs.values():
        pixels = cv2.imread(str(shapes / "train" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        assert 112 <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= 160


def test_boxes_and_areas_are_those_of_the_masks(coco):
    for annotation in coco.anns.values():
        mask = coco.annToRLE(annotation)
        # Polygons lose up to two pixels at a sharp corner when they become masks.
        tolerance = 0 if annotation["iscrowd"] else 2
        assert annotation["bbox"] == pytest.approx(list(coco_mask.toBbox(mask)), abs=tolerance)
        share = 0 if annotation["iscrowd"] else 0.15
        assert annotation["area"] == pytest.approx(float(coco_mask.area(mask)), rel=share)


def test_boxes_lie_in_their_images_and_hardly_overlap(coco):
    for image_id, image in coco.imgs.items():
        boxes = np.array([a["bbox"] for a in coco.loadAnns(coco.getAnnIds(image_id))])
        boxes = boxes.reshape(-1, 4)
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 0).all()
        assert (
            boxes[:, :2] + boxes[:, 2:] <= [image["width"] + 0.01, image["height"] + 0.01]
        ).all()
        if len(boxes):
            overlap = coco_mask.iou(boxes, boxes, np.zeros(len(boxes))) - np.eye(len(boxes))
            assert overlap.max() < 0.12


def test_a_shape_is_where_its_polygon_is(coco, shapes):
    """Inside a polygon the picture has one colour, and another one around the box."""
    differences = []
    for annotation in list(coco.anns.values())[:60]:
        if annotation["iscrowd"]:
            continue
        file_name = coco.imgs[annotation["image_id"]]["file_name"]
        pixels = cv2.imread(str(shapes / "train" / file_name)).astype(float)
        mask = coco.annToMask(annotation)
        inside = cv2.erode(mask, np.ones((5, 5))) > 0
        ring = (cv2.dilate(mask, np.ones((9, 9))) - cv2.dilate(mask, np.ones((5, 5)))) > 0
        assert pixels[inside].std(axis=0).max() < 20  # its own noise
        differences.append(np.abs(np.median(pixels[inside], 0) - np.median(pixels[ring], 0)).max())
    assert np.median(differences) > 60


def test_the_set_can_be_trained_on(shapes):
    annotations = shapes / "annotations" / "instances_val.json"
    records = load_coco(shapes / "val", annotations)
    mapper = DetrMapper(True, [128, 160], crop_probability=0)
    boxes = sum(len(mapper(record)["boxes_cxcywh"]) for record in records)
    document = json.loads(annotations.read_text())
    assert boxes == sum(not annotation["iscrowd"] for annotation in document["annotations"])
    assert num_classes(annotations) == 3
