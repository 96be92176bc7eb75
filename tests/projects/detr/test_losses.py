import math

import pytest
import torch

from projects.detr.losses import DetectionLoss, box_losses, classification_loss, focal_loss

LEFT_HALF = [0.25, 0.5, 0.5, 1.0]
RIGHT_HALF = [0.75, 0.5, 0.5, 1.0]
TOP_LEFT = [0.25, 0.25, 0.5, 0.5]


def outputs(logits, boxes):
    """Of one decoder layer."""
    tensors = {"pred_logits": torch.tensor([logits]), "pred_boxes": torch.tensor([boxes])}
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def crossed(dtype=torch.float32):
    """Two queries and two objects, each query nearer to the other object; C = 2, even classes."""
    judged = outputs([[[0.0, 0.0, 0.0]] * 2], [[RIGHT_HALF, TOP_LEFT]])
    judged = {name: tensor.to(dtype) for name, tensor in judged.items()}
    return judged, [torch.tensor([0, 1])], [torch.tensor([LEFT_HALF, RIGHT_HALF])]


def test_classification_is_a_weighted_mean():
    """One object at probability 1/2, two empty queries at 1/4 and 1/2; C = 1."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, 0.0]])[None, None]
    loss = classification_loss(logits, torch.tensor([[[0, 1, 1]]]), no_object_weight=0.1)
    expected = (math.log(2) + 0.1 * math.log(4) + 0.1 * math.log(2)) / 1.2
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_box_losses_by_hand():
    predicted = torch.tensor([[LEFT_HALF, TOP_LEFT], [LEFT_HALF, LEFT_HALF]])
    true = torch.tensor([[LEFT_HALF, RIGHT_HALF]] * 2)
    l1, giou = box_losses(predicted, true)
    torch.testing.assert_close(l1, torch.tensor([[0.0, 1.25], [0.0, 0.5]]))
    torch.testing.assert_close(giou, torch.tensor([[0.0, 1.25], [0.0, 1.0]]), atol=1e-5, rtol=0)


def test_two_queries_two_objects_by_hand():
    """Query 0 answers for object 1 and the other way round, whatever their order in the file."""
    losses = DetectionLoss()(*crossed())
    assert list(losses) == ["loss_ce", "loss_bbox", "loss_giou"]
    torch.testing.assert_close(losses["loss_ce"].item(), math.log(3))
    # Top left and left half: L1 0.25 + 0.5, IoU = GIoU = 1/2. The other pair is perfect.
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.75 / 2)
    assert losses["loss_giou"].item() == pytest.approx(2 * 0.5 / 2, abs=1e-5)


def test_weights_scale_losses():
    once = DetectionLoss(1, 1, 1)(*crossed())
    scaled = DetectionLoss(2, 3, 4)(*crossed())
    for name, factor in (("loss_ce", 2), ("loss_bbox", 3), ("loss_giou", 4)):
        torch.testing.assert_close(scaled[name], factor * once[name])


def test_each_layer_is_matched_by_itself():
    """The layers see the same boxes in other orders: box losses 0 in both, never crossed."""
    first = outputs([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]], [[LEFT_HALF, RIGHT_HALF]])
    last = outputs([[[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]], [[RIGHT_HALF, LEFT_HALF]])
    both = {name: torch.cat([first[name], last[name]]) for name in first}
    labels, boxes = [torch.tensor([0, 1])], [torch.tensor([LEFT_HALF, RIGHT_HALF])]
    losses = DetectionLoss()(both, labels, boxes)
    assert len(losses) == 6
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(0.0, abs=1e-3), name


def test_boxes_count_over_the_whole_batch():
    """Two images, three objects: the sum of L1 is divided by 3; an image may be empty."""
    judged = outputs([[[0.0, 0.0]] * 2] * 3, [[LEFT_HALF, RIGHT_HALF]] * 3)
    labels = [torch.tensor([0, 0]), torch.tensor([0]), torch.zeros(0, dtype=torch.int64)]
    boxes = [torch.tensor([LEFT_HALF, RIGHT_HALF]), torch.tensor([TOP_LEFT]), torch.zeros(0, 4)]
    losses = DetectionLoss()(judged, labels, boxes)
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.75 / 3)
    torch.testing.assert_close(losses["loss_ce"].item(), math.log(2))  # every query says 1/2


def test_more_objects_than_queries():
    judged = outputs([[[0.0, 0.0]]], [[LEFT_HALF]])
    labels, boxes = [torch.tensor([0, 0])], [torch.tensor([RIGHT_HALF, LEFT_HALF])]
    losses = DetectionLoss()(judged, labels, boxes)
    assert losses["loss_bbox"].item() == 0.0  # the nearer one is matched, none is counted twice
    assert losses["loss_ce"].item() == pytest.approx(math.log(2))


def test_batch_without_any_object():
    """Only "no object" is taught; the boxes get a gradient of zero rather than none."""
    judged = outputs([[[0.0, 0.0, 0.0]] * 2] * 2, [[LEFT_HALF, RIGHT_HALF]] * 2)
    nothing = [torch.zeros(0, dtype=torch.int64)] * 2, [torch.zeros(0, 4)] * 2
    losses = DetectionLoss()(judged, *nothing)
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0.0
    assert losses["loss_ce"].item() == pytest.approx(math.log(3))
    sum(losses.values()).backward()
    assert torch.equal(judged["pred_boxes"].grad, torch.zeros(1, 2, 2, 4))
    assert (judged["pred_logits"].grad[..., -1] < 0).all()


def test_focal_loss_by_hand():
    """Two classes at 1/2 and 3/4, then at 1/2 and 1/4; class 1 is the first query's, none the
    second's. FL = 1/4 (1 - p)^2 -log p for it and 3/4 p^2 -log(1 - p) for the other three."""
    third = math.log(3)
    logits = torch.tensor([[0.0, third, 7.0], [0.0, -third, 7.0]])[None, None]
    loss = focal_loss(logits, torch.tensor([[[1, 2]]]), torch.tensor(2.0))
    answer = 0.25 * 0.25**2 * -math.log(0.75)
    half, quarter = 0.75 * 0.25 * math.log(2), 0.75 * 0.0625 * -math.log(0.75)
    torch.testing.assert_close(loss, torch.tensor([(answer + 2 * half + quarter) / 2]))


def test_focal_classification_ignores_no_object():
    judged, *targets = crossed()
    losses = DetectionLoss(class_weight=2.0, focal=True)(judged, *targets)
    assert losses["loss_ce"].item() == pytest.approx(2 * math.log(2) * 0.25 * (0.5 + 1.5) / 2)
    losses["loss_ce"].backward()
    assert (judged["pred_logits"].grad[..., 2] == 0).all()


def test_half_precision_outputs_are_judged_in_single():
    losses = DetectionLoss()(*crossed(torch.bfloat16))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.75 / 2)
