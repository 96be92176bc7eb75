import io
import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pycocotools.coco import COCO

from dropkey_core.engine.files.inputs import Input
from projects.detr.annotation_file import Category
from projects.detr.hugging_face import save_hugging_face
from projects.detr.mapper import DetrMapper
from projects.detr.predictor import (
    Detections,
    Detector,
    is_hugging_face,
    known_classes,
)
from projects.predictors import load_predictor


@pytest.fixture
def detector(small_detr):
    """Of ships and trees, which files call 7 and 2, and an index without a class."""
    mapper = DetrMapper(training=False, min_sizes=[64], max_size=96)
    return Detector(small_detr().eval(), mapper, ["tree", "ship", "unused"], [2, 7, 9])


@pytest.fixture
def found(detector):
    """A ship on a large grey picture, and a tree, less sure, which reaches over the edge."""
    outputs = {
        "boxes_xyxy": torch.tensor([[40.0, 20, 140, 120], [10, 10, 90, 60], [-10, 0, 30, 40]]),
        "scores": torch.tensor([0.2, 0.9, 0.6]),
        "labels": torch.tensor([0, 1, 0]),
    }
    image = torch.full((3, 500, 800), 90, dtype=torch.uint8)
    classes = detector.names, detector.category_ids
    return Detections.of(Input(image, "a.jpg"), outputs, 0.5, *classes)


def test_fields_of_the_surest(found):
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6]))
    assert repr(found) == "<Detections on a.jpg (800 x 500): 2 found>"
    assert found.boxes_xyxy.tolist() == [[10, 10, 90, 60], [-10, 0, 30, 40]]
    assert found.labels.tolist() == [1, 0] and found.names == ["ship", "tree"]
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["file_name"], plain["height"], plain["width"]) == ("a.jpg", 500, 800)
    assert plain["names"] == ["ship", "tree"] and plain["boxes_xyxy"][0] == [10, 10, 90, 60]


def test_coco_reads_the_results(found, detector, tmp_path):
    document = {"images": [{"id": 3}], "annotations": [], "categories": detector.categories()}
    (tmp_path / "images.json").write_text(json.dumps(document))
    (tmp_path / "found.json").write_text(json.dumps(found.to_coco(3)))
    read = COCO(tmp_path / "images.json").loadRes(str(tmp_path / "found.json"))
    assert [annotation["category_id"] for annotation in read.dataset["annotations"]] == [7, 2]
    assert read.anns[1]["bbox"] == [10, 10, 80, 50] and read.anns[1]["area"] == 4000
    assert read.anns[1]["score"] == pytest.approx(0.9)
    assert {one["id"]: one["name"] for one in read.dataset["categories"]} == {2: "tree", 7: "ship"}


def test_boxes_are_drawn_where_they_are(found):
    drawn = np.asarray(found.draw()).astype(int)
    assert drawn.shape == (500, 800, 3)  # large enough as it is
    orange = (drawn[..., 0] > 180) & (drawn[..., 2] < 90)
    assert orange[15:40, 10].all() and orange[20:55, 89].all()  # sides of the ship's box
    assert not orange[100:, 100:].any()  # of what is not sure enough nothing is seen
    assert (drawn[200:, 200:] == 90).all()


def test_nothing_found_is_a_picture_all_the_same(detector):
    result = detector(np.full((500, 800, 3), 90, np.uint8), score_threshold=1)
    assert result and len(result) == 0
    assert result.boxes_xyxy.shape == (0, 4) and result.to_coco(1) == [] and result.names == []
    assert (np.asarray(result.draw()) == 90).all()
    result.draw().save(io.BytesIO(), "PNG")


def test_names_and_ids_of_classes(write_coco):
    annotations = str(write_coco()[1])
    config = OmegaConf.create({"dataset": {"test": {"annotations": annotations}}})
    assert known_classes(2, config) == [Category(2, "tree"), Category(7, "ship")]
    assert known_classes(3, config) == [Category(n, f"class {n}") for n in range(3)]
    empty = OmegaConf.create({"dataset": {}})
    classes = known_classes(91, empty)
    assert (len(classes), classes[1].name, classes[90]) == (
        91,
        "person",
        Category(90, "toothbrush"),
    )


def test_classes_of_a_test_set_that_has_a_part_of_them(write_coco, tmp_path):
    part = tmp_path / "part.json"
    part.write_text(json.dumps({"categories": [{"id": 7, "name": "ship"}], "images": []}))
    sets = {"test": {"annotations": str(part)}, "train": {"annotations": str(write_coco()[1])}}
    classes = known_classes(2, OmegaConf.create({"dataset": sets}))
    assert classes == [Category(2, "tree"), Category(7, "ship")]


def test_a_folder_of_hugging_face(small_detr, tmp_path):
    model = small_detr(backbone="resnet18").eval()
    save_hugging_face(model, ["tree", "ship", "N/A"], tmp_path / "theirs")
    detector = Detector.from_pretrained(tmp_path / "theirs", device="cpu")
    assert list(detector.names) == ["tree", "ship", "N/A"]
    assert detector.categories() == [{"id": 0, "name": "tree"}, {"id": 1, "name": "ship"}]
    torch.testing.assert_close(detector.model.state_dict(), model.state_dict())
    assert isinstance(load_predictor(tmp_path / "theirs", device="cpu"), Detector)
    assert detector.mapper({"image": torch.zeros(3, 40, 60, dtype=torch.uint8)})["image"].shape == (
        3,
        800,
        1200,
    )


def test_what_looks_like_hugging_face(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    for identifier in ("facebook/detr-resnet-50", "facebook/detr-resnet-50@no_timm"):
        assert is_hugging_face(identifier)
    for other in (
        "detr-r50",
        "https://example.org/detr.pth",
        "a/b/c",
        tmp_path,
        "/tmp/x",
        "output/x",
    ):
        assert not is_hugging_face(other)
    (tmp_path / "config.json").touch()
    assert is_hugging_face(tmp_path)
    (tmp_path / "config.yaml").touch()  # a run of ours, whatever else is in it
    assert not is_hugging_face(tmp_path)
