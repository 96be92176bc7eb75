import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from projects.detr.attention import (
    Reference,
    attention_from,
    cell_side,
    on_image,
    run_with_attention,
    surest_points,
)
from projects.detr.predictor import Detections


@pytest.mark.parametrize(("size", "cells"), [((40, 160), (2, 5)), ((90, 70), (3, 3))])
def test_attention_covers_the_image_and_nothing_is_left_on_the_model(small_detr, size, cells):
    model = small_detr().eval()
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    sample = {"image": image, "height": 10, "width": 10}
    layer = model.transformer.encoder.layers[-1]
    detections, attention = run_with_attention(model, layer.self_attn, sample)
    assert attention.shape == (cells[0] * cells[1], *cells)
    assert_close(attention.sum((1, 2)), torch.ones(len(attention)))
    with torch.no_grad():
        assert_close(detections, model([sample])[0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attention_is_looked_up_in_the_cell_under_the_point():
    cells = torch.arange(12.0)
    attention = cells[:, None, None].expand(12, 3, 4)  # each cell says its number
    size = (65, 128)  # the third row of cells shows one line of pixels only
    for x, y, cell in [(0, 0, 0), (1, 1, 11), (0.26, 0.48, 1), (0.26, 0.5, 5), (0.1, 0.99, 8)]:
        row = attention_from(attention, Reference(x, y, ""), size)
        assert row.shape == (3, 4)
        assert (row == cell).all(), (x, y)


@pytest.mark.parametrize(
    ("size", "cells", "side"),
    [((800, 1066), (25, 34), 32), ((33, 20), (2, 1), 32), ((65, 80), (9, 10), 8)],
)
def test_side_of_a_cell(size, cells, side):
    assert cell_side(size, cells) == side


def test_cells_may_reach_over_the_edges_of_the_image():
    weights = torch.zeros(3, 2)
    weights[1, 1] = 1
    drawn = on_image(weights, (65, 50))
    assert drawn.shape == (65, 50)
    assert_allclose(drawn[47:49, 47:49], 1, atol=0.04)  # the middle of the second row and column
    assert drawn[:16].max() == 0 and drawn[:, :16].max() == 0


def test_points_are_the_centres_of_the_surest_one_for_each_object():
    corners = torch.arange(0, 60, 10.0).view(-1, 1) + torch.tensor([0.0, 5, 10, 15])
    corners[5] = corners[1] + 1  # the same object again
    scores, order = torch.tensor([0.2, 0.9, 0.5, 0.1, 0.05, 0.8]).sort(descending=True)
    names = ["pear" if n == 1 else "apple" for n in order.tolist()]
    image = torch.zeros(3, 50, 100, dtype=torch.uint8)
    found = Detections(image, "", corners[order], scores, order, names, order.tolist())
    points = surest_points(found)
    labels = ["pear 0.90", "apple 0.50", "apple 0.20", "apple 0.10"]
    assert [point.label for point in points] == labels
    assert (points[0].x, points[0].y) == pytest.approx((0.15, 0.4))
