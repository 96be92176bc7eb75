import json

import cv2
import numpy as np
import pytest
import torch

from projects.qpic.build import build_model
from tests.projects.detr.conftest import SMALL_BODY


@pytest.fixture
def write_interactions(tmp_path):
    """Writes a tiny sound interaction set, changed by keyword: keys of the first image's entry.

    Returns (image folder, annotation file, classes file).
    """

    def write(classes=None, images=None, **changes):
        first = {
            "file_name": "a.jpg",
            "height": 40,
            "width": 60,
            "annotations": [
                {"bbox": [5, 6, 25, 36], "category_id": 1},
                {"bbox": [20, 10, 50, 30], "category_id": 18},
                {"bbox": [40, 0, 60, 20], "category_id": 1},
            ],
            "hoi_annotation": [
                {"subject_id": 0, "object_id": 1, "category_id": 2},
                {"subject_id": 0, "object_id": 1, "category_id": 1},
                {"subject_id": 2, "object_id": -1, "category_id": 3},
            ],
        }
        first.update(changes)
        empty = {"file_name": "b.jpg", "annotations": [], "hoi_annotation": []}
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for name, shape in (("a.jpg", (40, 60, 3)), ("b.jpg", (50, 30, 3))):
            cv2.imwrite(str(folder / name), np.zeros(shape, np.uint8))
        document = [first, empty] if images is None else images
        (tmp_path / "annotations.json").write_text(json.dumps(document))
        known = {
            "objects": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
            "verbs": [{"id": n, "name": name} for n, name in enumerate(("hug", "wash", "wave"), 1)],
            "triplets": [[1, 0], [1, 1]],
            "rare_triplets": [[1, 1]],
        }
        known.update(classes or {})
        (tmp_path / "classes.json").write_text(json.dumps(known))
        return folder, tmp_path / "annotations.json", tmp_path / "classes.json"

    return write


@pytest.fixture
def small_qpic():
    """Builds a QPIC of two layers and five queries with settled random weights."""

    def build(**changes):
        heads = {"num_object_classes": 3, "num_verb_classes": 4}
        torch.manual_seed(0)
        return build_model(**{**SMALL_BODY, **heads, **changes})

    return build


@pytest.fixture
def small_samples():
    """Two images of different sizes: one pair; a pair of two verbs and one without object."""
    generator = torch.Generator().manual_seed(1)

    def sample(height, width, **targets):
        pixels = torch.randint(0, 256, (3, height, width), generator=generator)
        return {
            "image": pixels.to(torch.uint8),
            "height": 2 * height,
            "width": 3 * width,
            **{name: torch.tensor(values) for name, values in targets.items()},
        }

    return [
        sample(
            64,
            96,
            sub_boxes_cxcywh=[[0.5, 0.5, 0.2, 0.6]],
            obj_boxes_cxcywh=[[0.7, 0.5, 0.1, 0.1]],
            obj_labels=[2],
            verb_labels=[[0.0, 1.0, 0.0, 0.0]],
        ),
        sample(
            96,
            64,
            sub_boxes_cxcywh=[[0.3, 0.3, 0.2, 0.2], [0.6, 0.7, 0.3, 0.1]],
            obj_boxes_cxcywh=[[0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0]],
            obj_labels=[0, 3],
            verb_labels=[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        ),
    ]
