import math

import pytest
import torch

from projects.detr.matcher import assign, detection_cost, pairwise_giou

# Three boxes whose overlaps are easy: halves of the unit square, and a quarter of it.
LEFT_HALF = [0.25, 0.5, 0.5, 1.0]
RIGHT_HALF = [0.75, 0.5, 0.5, 1.0]
TOP_LEFT = [0.25, 0.25, 0.5, 0.5]


def test_giou_by_hand():
    giou = pairwise_giou(torch.tensor([LEFT_HALF, TOP_LEFT]), torch.tensor([LEFT_HALF, RIGHT_HALF]))
    # The halves touch: IoU 0, and their hull has no empty part. A quarter of the square and the
    # other half: IoU 0, a quarter of the hull is empty.
    expected = torch.tensor([[1.0, 0.0], [0.5, -0.25]])
    torch.testing.assert_close(giou, expected)


def test_cost_by_hand():
    """Class, L1 and GIoU terms with DETR's weights 1, 5 and 2."""
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0]])
    boxes = torch.tensor([LEFT_HALF, TOP_LEFT])
    cost = detection_cost(
        logits, boxes, torch.tensor([0, 1]), torch.tensor([LEFT_HALF, RIGHT_HALF])
    )
    expected = torch.tensor(
        [
            [-1 / 3 + 5 * 0.0 - 2 * 1.0, -1 / 3 + 5 * 0.5 - 2 * 0.0],
            [-1 / 2 + 5 * 0.75 - 2 * 0.5, -1 / 4 + 5 * 1.25 + 2 * 0.25],
        ]
    )
    torch.testing.assert_close(cost, expected)


def test_focal_cost_by_hand():
    """At p = 3/4: 1/4 (1 - p)^2 -log p - 3/4 p^2 -log(1 - p), the same box."""
    logits, box = torch.tensor([[math.log(3), 0.0, 0.0]]), torch.tensor([LEFT_HALF])
    cost = detection_cost(logits, box, torch.tensor([0]), box, class_cost=2.0, focal=True)
    present, absent = 0.25 / 16 * math.log(4 / 3), 0.75 * 9 / 16 * math.log(4)
    torch.testing.assert_close(cost, torch.tensor([[2 * (present - absent) - 2.0]]))


def test_cost_keeps_leading_axes():
    logits, boxes = torch.randn(2, 3, 5, 4), torch.rand(2, 3, 5, 4)
    labels, targets = torch.tensor([0, 2]), torch.rand(2, 4)
    cost = detection_cost(logits, boxes, labels, targets)
    assert cost.shape == (2, 3, 5, 2)
    alone = detection_cost(logits[1, 2], boxes[1, 2], labels, targets)
    torch.testing.assert_close(cost[1, 2], alone)


@pytest.mark.parametrize(
    "cost",
    [
        [[1.0, 0.0], [2.0, 9.0]],  # query 0 is best for both, but the total smallest crosswise
        [[3.0, 1.0, 2.0], [1.0, 9.0, 9.0]],  # more objects than queries: object 2 is left alone
    ],
)
def test_smallest_total_cost_wins_over_the_nearest(cost):
    images, queries, objects = assign(torch.tensor(cost)[None, None], [len(cost[0])])
    assert images.tolist() == [0, 0]
    assert queries.tolist() == [[0, 1]]
    assert objects.tolist() == [[1, 0]]


def test_images_and_layers_are_matched_apart():
    """Image 0 has object 0, image 1 none, image 2 objects 1 and 2; layers disagree."""
    cost = torch.ones(2, 3, 2, 3)
    cost[0, 0, 1, 0] = 0  # layer 0: query 1 of image 0
    cost[1, 0, 0, 0] = 0  # layer 1: query 0 of image 0
    cost[0, 2, 0, 2] = 0
    cost[1, 2, 0, 1] = 0
    cost[:, 1] = -100  # nothing there to be matched with
    images, queries, objects = assign(cost, [1, 0, 2])
    assert images.tolist() == [0, 2, 2]
    assert queries.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert objects.tolist() == [[0, 2, 1], [0, 1, 2]]


def test_no_object_at_all():
    images, queries, objects = assign(torch.ones(2, 3, 4, 0), [0, 0, 0])
    assert images.shape == (0,)
    assert queries.shape == objects.shape == (2, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_model_can_still_be_matched(bad):
    images, _, objects = assign(torch.full((1, 1, 3, 2), bad), [2])
    assert images.tolist() == [0, 0]
    assert sorted(objects[0].tolist()) == [0, 1]
