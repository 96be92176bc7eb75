import numpy as np
import torch

from projects.detr.picture import draw_pictures
from projects.qpic import sheet
from projects.qpic.evaluation import HicoDetEvaluator

MAN, KITE, BALL = [2, 1, 12, 31], [20, 0, 29, 9], [40, 10, 50, 20]


def test_pairs_that_are_found_on_an_image_and_pairs_that_are_there(monkeypatch):
    drawn = []

    def draw(pictures, *rest):
        drawn.extend(pictures)
        return draw_pictures(pictures, *rest)

    monkeypatch.setattr(sheet, "draw_pictures", draw)
    truth = {"boxes_xyxy": np.array([MAN, KITE, BALL], np.float32), "labels": [0, 1, 2]}
    truth["hois"] = [(0, 1, 0), (0, 2, 1), (0, 1, 1), (0, -1, 1)]
    nothing = {"boxes_xyxy": [], "labels": [], "hois": []}
    names = {"object_names": ["person", "kite", "ball"], "verb_names": ["hold", "watch"]}
    evaluator = HicoDetEvaluator({4: nothing, 7: truth}, np.ones((2, 3)), [], [], **names)
    sample = {"image_id": 7, "file_name": "/data/7.jpg", "height": 40, "width": 60}
    sample["image"] = torch.full((3, 20, 30), 9, dtype=torch.uint8)  # resized
    output = {
        "sub_boxes": torch.tensor([MAN, MAN, MAN], dtype=torch.float32),
        "obj_boxes": torch.tensor([KITE, BALL, KITE], dtype=torch.float32),
        "obj_labels": torch.tensor([1, 2, 1]),
        "verb_scores": torch.tensor([[0.4, 0.9], [0.1, 0.2], [0.3, 0.2]]),
    }

    page = evaluator.draw((sample,), (output,))
    assert (page.dtype, page.ndim, page.shape[2]) == (np.uint8, 3, 3)
    (picture,) = drawn
    assert picture.title == "7.jpg"
    assert picture.image.shape == (40, 60, 3)
    assert [(each.label, *each.boxes, each.is_true) for each in picture.annotations] == [
        ("watch kite 0.90\nhold kite 0.40", tuple(MAN), tuple(KITE), False),
        ("", tuple(MAN), tuple(KITE), True),  # found
        ("watch ball", tuple(MAN), tuple(BALL), True),
    ]
