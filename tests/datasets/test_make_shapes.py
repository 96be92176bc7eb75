import contextlib
import hashlib
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
    assert make_shapes.main(arguments(output, "--num-train", 150)) == 0
    return output


def arguments(output, *more):
    return [str(a) for a in ("--output", output, "--num-train", 3, "--num-val", 10, *more)]


@pytest.fixture(scope="module")
def coco(shapes):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(shapes / "annotations" / "instances_train.json"))


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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


def test_the_same_settings_give_the_same_files_and_others_do_not(make_shapes, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert make_shapes.main(arguments(tmp_path / folder, "--seed", seed)) == 0
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a")["train/000000000001.jpg"] not in digest(tmp_path / "c").values()


def test_train_and_val_are_different_pictures(make_shapes, tmp_path):
    make_shapes.main(arguments(tmp_path))
    names = digest(tmp_path)
    assert names["train/000000000001.jpg"] != names["val/000000000001.jpg"]


def test_a_set_that_is_there_is_left_alone(make_shapes, tmp_path, capsys):
    make_shapes.main(arguments(tmp_path))
    marked = tmp_path / "val" / "000000000001.jpg"
    marked.write_bytes(b"mine")
    assert make_shapes.main(arguments(tmp_path)) == 0
    assert f"{tmp_path}: already there" in capsys.readouterr().out
    assert make_shapes.main(arguments(tmp_path, "--seed", 9)) == 2
    assert f"error: {tmp_path} holds another set" in capsys.readouterr().err
    assert marked.read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"{}", b'{"info"', b"[" * 100_000])
def test_a_file_of_another_kind_is_named_in_one_line(make_shapes, tmp_path, capsys, content):
    path = tmp_path / "annotations" / "instances_train.json"
    path.parent.mkdir(exist_ok=True)
    (path.parent / "instances_val.json").write_text("{}")
    path.write_bytes(content)
    assert make_shapes.main(arguments(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}")
    assert error.count("\n") == 1
    assert path.read_bytes() == content


def test_an_unfinished_set_is_finished(make_shapes, tmp_path):
    make_shapes.main(arguments(tmp_path))
    whole = digest(tmp_path)
    (tmp_path / "annotations" / "instances_val.json").unlink()
    (tmp_path / "val" / "000000000002.jpg").unlink()
    assert make_shapes.main(arguments(tmp_path)) == 0
    assert digest(tmp_path) == whole


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--image-size", 20, "--image-size must be at least 64, got 20"),
        ("--num-val", 0, "must be at least 1, got 3 and 0"),
        ("--seed", -1, "--seed must be 0 or more, got -1"),
    ],
)
def test_impossible_settings_are_refused(make_shapes, tmp_path, capsys, option, value, message):
    assert make_shapes.main(arguments(tmp_path, option, value)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_set_can_be_trained_on(shapes):
    annotations = shapes / "annotations" / "instances_val.json"
    records = load_coco(shapes / "val", annotations)
    mapper = DetrMapper(True, [128, 160], crop_probability=0)
    boxes = sum(len(mapper(record)["boxes_cxcywh"]) for record in records)
    document = json.loads(annotations.read_text())
    assert boxes == sum(not annotation["iscrowd"] for annotation in document["annotations"])
    assert num_classes(annotations) == 3
