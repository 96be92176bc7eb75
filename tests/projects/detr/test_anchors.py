import torch
from torchvision.ops import box_convert, box_iou

from projects.detr.anchors import (
    ABSENT,
    CellDetector,
    best_boxes,
    box_head,
    cell_centres,
    overlaps,
    refined,
)


def test_boxes_move_in_their_logits():
    """logit(0.5) = 0 and sigmoid(log 3) = 3/4; no step, no move; the edges stay finite."""
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.1], [0.0, 1.0, 1.0, 0.0]])
    step = torch.tensor([3.0, 1.0, 3.0, 1.0]).log()
    torch.testing.assert_close(refined(boxes, step)[0], torch.tensor([0.75, 0.5, 0.5, 0.1]))
    assert refined(boxes, step)[1].isfinite().all()
    torch.testing.assert_close(refined(boxes, torch.zeros(4)), boxes, atol=2e-4, rtol=0)


def test_a_head_begins_without_a_step():
    assert torch.equal(box_head(8)(torch.randn(3, 8)), torch.zeros(3, 4))


def test_centres_of_cells_are_exact_where_the_last_cell_reaches_over_the_edge():
    """Cells of 8 pixels; images of 16 x 24 and of 10 x 12 pixels, whose last column is padding."""
    centres = cell_centres(torch.tensor([[16, 24], [10, 12]]), (2, 3), 8)
    whole = torch.tensor([[x / 24, y / 16] for y in (4, 12) for x in (4, 12, 20)])
    torch.testing.assert_close(centres[0], whole)
    part = torch.tensor([[x, y] for y in (4 / 10, 1.0) for x in (4 / 12, 1.0, 1.0)])
    torch.testing.assert_close(centres[1], part)


def test_no_class_is_in_padding():
    torch.manual_seed(0)
    detector = CellDetector(8, 3)
    padding = torch.tensor([[False, False, True, True]])
    centres = torch.rand(1, 4, 2)
    found = detector(torch.randn(1, 4, 8), centres, padding)
    torch.testing.assert_close(found["pred_boxes"][0, ..., :2], centres)  # no step at first
    assert found["pred_logits"].shape == found["pred_boxes"].shape == (1, 1, 4, 4)
    assert (found["pred_logits"][0, 0, 2:] == ABSENT).all()
    assert (found["pred_logits"][0, 0, :2] > ABSENT / 2).all()


def test_the_surest_cells_are_chosen_without_gradient():
    """By real classes alone: "no object" is surest in cell 1, which is not chosen."""
    logits = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 9.0], [3.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    boxes = torch.rand(4, 4, requires_grad=True)
    cells = {"pred_logits": logits[None, None], "pred_boxes": boxes[None, None]}
    chosen = best_boxes(cells, 3)
    assert torch.equal(chosen, boxes[[2, 3, 0]][None])
    assert not chosen.requires_grad
    assert best_boxes(cells, 9).shape == (1, 4, 4)


def test_boxes_that_are_nearly_the_same_come_after_the_distinct_ones():
    """Box 1 is box 0 again, less sure; box 3 overlaps box 2 by 0.6 of their union."""
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0])
    x, side = torch.tensor([0.3, 0.31, 0.6, 0.65]), torch.full((4,), 0.2)
    cells = {
        "pred_logits": torch.stack([scores, torch.zeros(4)], dim=-1)[None, None],
        "pred_boxes": torch.stack([x, side, side, side], dim=-1)[None, None],
    }
    assert torch.equal(best_boxes(cells, 4)[0, :, 0], x[[0, 2, 3, 1]])
    assert torch.equal(best_boxes(cells, 2)[0, :, 0], x[[0, 2]])


def test_overlaps_are_those_of_torchvision():
    boxes = torch.rand(2, 5, 4)
    for own, found in zip(boxes, overlaps(boxes), strict=True):
        corners = box_convert(own, "cxcywh", "xyxy")
        torch.testing.assert_close(found, box_iou(corners, corners))
    assert overlaps(torch.zeros(1, 2, 4)).eq(0).all()  # boxes without area
