import torch

from projects.detr.anchors import (
    ABSENT,
    ANCHOR_SIDE,
    CellDetector,
    best_boxes,
    box_head,
    cell_boxes,
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


def test_boxes_of_cells_are_centred_in_the_unpadded_part():
    """Two rows and three columns, the last column padding in the second image."""
    padding = torch.zeros(2, 2, 3, dtype=torch.bool)
    padding[1, :, 2] = True
    boxes = cell_boxes(padding)
    assert boxes.shape == (2, 6, 4)
    assert (boxes[..., 2:] == ANCHOR_SIDE).all()
    whole = torch.tensor([[x, y] for y in (0.25, 0.75) for x in (1 / 6, 0.5, 5 / 6)])
    torch.testing.assert_close(boxes[0, :, :2], whole)
    half = torch.tensor([[x, y] for y in (0.25, 0.75) for x in (0.25, 0.75)])
    torch.testing.assert_close(boxes[1][~padding[1].flatten(), :2], half)


def test_no_class_is_in_padding():
    torch.manual_seed(0)
    detector = CellDetector(8, 3)
    padding = torch.zeros(1, 2, 2, dtype=torch.bool)
    padding[0, 1] = True
    found = detector(torch.randn(1, 4, 8), padding)
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
