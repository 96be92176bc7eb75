import json

import numpy as np
import torch

from projects.detr import CocoEvaluator, picture
from projects.detr.coco import load_coco, read_categories
from projects.detr.picture import Box, draw_boxes, markings_of, true_boxes
from projects.drawing import Picture, draw_pictures

DOCUMENT = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in (7, 8)],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 8, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [10, 5, 20, 10], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [40, 20, 10, 10], "iscrowd": 1},
    ],
}


def test_true_boxes_keep_their_names_and_crowds(write_coco):
    images, annotations = map(str, write_coco())
    record = load_coco(images, annotations)[0]
    names = [each.name for each in read_categories(annotations).classes]
    boxes = true_boxes(record["annotations"], names)
    assert [(box.corners, box.marking().label) for box in boxes] == [
        ((5, 6, 25, 16), "ship"),
        ((0, 0, 60, 40), "tree (crowd)"),
    ]


def test_labels_are_short():
    labels = [Box((0, 0, 9, 9), name, 0.5).marking().label for name in ("pear", "p" * 40)]
    assert labels == ["pear 0.50", "p" * 27 + "… 0.50"]


def test_only_what_was_missed_is_named_a_second_time():
    predicted = [
        Box((10, 10, 40, 40), "cat", 0.987),
        Box((60, 60, 90, 90), "dog", 0.5),
        Box((10, 60, 40, 90), "cat", 0.3),  # over the crowd, which is named all the same
    ]
    true = [
        Box((12, 12, 40, 40), "cat"),  # found
        Box((60, 60, 90, 90), "cow"),  # taken for a dog
        Box((60, 10, 90, 40), "cat"),  # overlooked
        Box((10, 60, 40, 90), "cat", is_crowd=True),
    ]
    drawn = markings_of(predicted, true)
    labels = ["cat 0.99", "dog 0.50", "cat 0.30", "", "cow", "cat", "cat (crowd)"]
    assert [marking.label for marking in drawn] == labels
    assert [marking.is_true for marking in drawn] == [False] * 3 + [True] * 4
    assert [marking.is_crowd for marking in drawn] == [False] * 6 + [True]


def drawn_pages(monkeypatch):
    """Of each page what ``draw_pictures`` is given: pictures, heading, legend."""
    pages = []

    def draw(*given):
        pages.append(given)
        return draw_pictures(*given)

    monkeypatch.setattr(picture, "draw_pictures", draw)
    return pages


def test_legend_explains_only_what_is_there(monkeypatch):
    pages = drawn_pages(monkeypatch)
    box, crowd = Box((5, 5, 45, 45), "cat"), Box((5, 5, 45, 45), "cat", is_crowd=True)
    for true in ([], [box], [box, crowd]):
        draw_boxes([Picture("", np.zeros((50, 50, 3), np.uint8), markings_of([], true))], "")
    explained = [[entry.caption.split(",")[0] for entry in legend] for _, _, legend in pages]
    assert explained == [["predicted"], ["predicted", "true"], ["predicted", "true", "crowd"]]


def test_evaluator_draws_what_is_found_on_an_image_and_what_is_there(tmp_path, monkeypatch):
    pages = drawn_pages(monkeypatch)
    (tmp_path / "set.json").write_text(json.dumps(DOCUMENT))
    sample = {"image_id": 7, "file_name": "/data/7.jpg", "height": 40, "width": 60}
    sample["image"] = torch.full((3, 20, 30), 9, dtype=torch.uint8)  # resized
    boxes = [[10, 5, 30, 14], [0, 0, 5, 5], [1, 2, 3, 4]]
    output = {"scores": torch.tensor([0.6, 0.4, 0.9]), "labels": torch.tensor([1, 1, 0])}
    output["boxes_xyxy"] = torch.tensor(boxes, dtype=torch.float32)

    page = CocoEvaluator(tmp_path / "set.json").draw((sample,), (output,))
    assert (page.dtype, page.ndim, page.shape[2]) == (np.uint8, 3, 3)
    (((drawn,), heading, _),) = pages
    assert heading == "detections with a score of 0.5 or more"
    assert drawn.title == "7.jpg"
    assert (drawn.image == np.full((40, 60, 3), 9)).all()
    assert [(each.label, *each.boxes, each.is_true) for each in drawn.markings] == [
        ("cat 0.90", (1, 2, 3, 4), False),
        ("dog 0.60", (10, 5, 30, 14), False),
        ("", (10, 5, 30, 15), True),  # found
        ("cat (crowd)", (40, 20, 50, 30), True),
    ]
