import json

import cv2
import numpy as np
import pytest
import torch

from projects.detr.build import build_model

SMALL_BODY = {
    "backbone": "resnet10",
    "pretrained_backbone": False,
    "num_queries": 5,
    "embed_dim": 32,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "ffn_dim": 48,
}


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
        document |= changes
        images = tmp_path / "images"
        images.mkdir(exist_ok=True)
        for name, shape in (("a.jpg", (40, 60, 3)), ("b.jpg", (50, 30, 3))):
            cv2.imwrite(str(images / name), np.zeros(shape, np.uint8))
        annotations = tmp_path / "annotations.json"
        annotations.write_text(json.dumps(document))
        return images, annotations

    return write


@pytest.fixture
def small_detr():
    """Builds a DETR of two layers and five queries with settled random weights."""

    def build(**changes):
        torch.manual_seed(0)
        return build_model(**{**SMALL_BODY, "num_classes": 3, **changes})

    return build


@pytest.fixture
def small_samples():
    """Two images of different sizes, one object in the first and two in the second."""
    generator = torch.Generator().manual_seed(1)

    def sample(height, width, labels, boxes_cxcywh):
        pixels = torch.randint(0, 256, (3, height, width), generator=generator)
        return {
            "image": pixels.to(torch.uint8),
            "height": 2 * height,
            "width": 3 * width,
            "labels": torch.tensor(labels),
            "boxes_cxcywh": torch.tensor(boxes_cxcywh),
        }

    return [
        sample(64, 96, [2], [[0.5, 0.5, 0.2, 0.6]]),
        sample(96, 64, [0, 1], [[0.3, 0.3, 0.2, 0.2], [0.6, 0.7, 0.3, 0.1]]),
    ]
