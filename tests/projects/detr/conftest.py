import json

import cv2
import numpy as np
import pytest


@pytest.fixture
def write_coco(tmp_path):
    """Writes a tiny sound COCO set, changed by keyword; returns (image folder, annotation file)."""

    def write(**changes):
        document = {
            "categories": [{"id": 7, "name": "ship"}, {"id": 2, "name": "tree"}],
            "images": [
                {"id": 11, "file_name": "a.jpg", "height": 40, "width": 60},
                {"id": 5, "file_name": "b.jpg", "height": 50, "width": 30},
            ],
            "annotations": [
                {"id": 1, "image_id": 11, "category_id": 7, "bbox": [5, 6, 20, 10], "iscrowd": 0},
                {"id": 2, "image_id": 11, "category_id": 2, "bbox": [0, 0, 60, 40], "iscrowd": 1},
            ],
        }
        document.update(changes)
        images = tmp_path / "images"
        images.mkdir(exist_ok=True)
        for name, shape in (("a.jpg", (40, 60, 3)), ("b.jpg", (50, 30, 3))):
            cv2.imwrite(str(images / name), np.zeros(shape, np.uint8))
        annotations = tmp_path / "annotations.json"
        annotations.write_text(json.dumps(document))
        return images, annotations

    return write
