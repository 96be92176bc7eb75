import json

import numpy as np
import torch

from projects.detr import CocoEvaluator, sheet
from projects.detr.picture import draw_pictures

DOCUMENT = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in (7, 8)],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 8, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [10, 5, 20, 10], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [40, 20, 10, 10], "iscrowd": 1},
    ],
}


def test_what_is_found_on_an_image_and_what_is_there(tmp_path, monkeypatch):
    drawn = []

    def draw(pictures, *rest):
        drawn.extend(pictures)
        return draw_pictures(pictures, *rest)

    monkeypatch.setattr(sheet, "draw_pictures", draw)
    (tmp_path / "set.json").write_text(json.dumps(DOCUMENT))
    sample = {"image_id": 7, "file_name": "/data/7.jpg", "height": 40, "width": 60}
    sample["image"] = torch.full((3, 20, 30), 9, dtype=torch.uint8)  # resized
    boxes = [[10, 5, 30, 14], [0, 0, 5, 5], [1, 2, 3, 4]]
    output = {"scores": torch.tensor([0.6, 0.4, 0.9]), "labels": torch.tensor([1, 1, 0])}
    output["boxes_xyxy"] = torch.tensor(boxes, dtype=torch.float32)

    page = CocoEvaluator(tmp_path / "set.json").draw((sample,), (output,))
    assert (page.dtype, page.ndim, page.shape[2]) == (np.uint8, 3, 3)
    (picture,) = drawn
    assert picture.title == "7.jpg"
    assert (picture.image == np.full((40, 60, 3), 9)).all()
    assert [(each.label, *each.boxes, each.is_true) for each in picture.annotations] == [
        ("cat 0.90", (1, 2, 3, 4), False),
        ("dog 0.60", (10, 5, 30, 14), False),
        ("", (10, 5, 30, 15), True),  # found
        ("cat (crowd)", (40, 20, 50, 30), True),
    ]
