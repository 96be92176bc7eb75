import numpy as np
import pytest
import torch

from projects.classification import ClassificationEvaluator, sheet
from projects.page import draw_page


@pytest.mark.parametrize(
    ("classes", "is_", "taken"), [(["cat", "dog"], "dog", "cat"), (None, 1, 0)]
)
def test_what_images_are_and_are_taken_for(monkeypatch, classes, is_, taken):
    drawn = []
    monkeypatch.setattr(sheet, "draw_page", lambda rows: drawn.extend(rows) or draw_page(rows))
    sample = {"label": 1, "image": torch.tensor([-2.0, 0.0, 2.0]).expand(3, 3, 3)}
    output = {"logits": torch.tensor([3.0, 1.0]).log()}
    page = ClassificationEvaluator(classes=classes).draw((sample,), (output,))
    assert (page.dtype, page.ndim, page.shape[2]) == (np.uint8, 3, 3)
    ((panel,),) = (row.panels for row in drawn)
    assert panel.caption == f"is: {is_}\ntaken for: {taken} 0.75"
    shown = page[-20, 20 : sheet.SIDE, 0]  # columns from the darkest to the brightest
    assert sorted(set(shown.tolist())) == [0, 128, 255]


def test_an_image_of_one_colour_can_be_shown():
    assert (sheet.shown(torch.ones(3, 2, 2)) == 0).all()
