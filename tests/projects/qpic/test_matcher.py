import math

import pytest
import torch

from projects.qpic.matcher import box_costs, has_object, interaction_cost, verb_cost

# Boxes whose overlaps are easy: halves of the unit square, and a quarter of it.
LEFT_HALF = [0.25, 0.5, 0.5, 1.0]
RIGHT_HALF = [0.75, 0.5, 0.5, 1.0]
TOP_LEFT = [0.25, 0.25, 0.5, 0.5]
BOTTOM_RIGHT = [0.75, 0.75, 0.5, 0.5]
NOTHING = [0.0, 0.0, 0.0, 0.0]


def logit(probability):
    return math.log(probability / (1 - probability))


def test_verb_cost_by_hand():
    """Half the mean probability of the verbs that are there, half that of the others' absence."""
    predicted = torch.tensor([[logit(0.9), logit(0.2), logit(0.6)]])
    pairs = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    expected = [
        -((0.9 + 0.6) / 2.0001 + 0.8 / 1.0001) / 2,
        -(0.2 / 1.0001 + (0.1 + 0.4) / 2.0001) / 2,
    ]
    torch.testing.assert_close(verb_cost(predicted, pairs), torch.tensor([expected]))


def test_verb_cost_of_pairs_with_no_verb_and_with_all():
    """One of the two means is empty: 0 over 1e-4, no more."""
    predicted = torch.tensor([[logit(0.9), logit(0.2)]])
    cost = verb_cost(predicted, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    expected = [-(0.1 + 0.8) / 2.0001 / 2, -(0.9 + 0.2) / 2.0001 / 2]
    torch.testing.assert_close(cost, torch.tensor([expected]))


def test_the_worse_of_two_boxes_counts():
    """Subject perfect and object not, then the other way round, against one pair."""
    sub_boxes = torch.tensor([LEFT_HALF, TOP_LEFT])
    obj_boxes = torch.tensor([TOP_LEFT, RIGHT_HALF])
    l1, giou = box_costs(
        sub_boxes, obj_boxes, torch.tensor([LEFT_HALF]), torch.tensor([RIGHT_HALF])
    )
    # Top left and left half: L1 0.25 + 0.5, GIoU 1/2. Top left and right half: L1 also 0.5 in x;
    # they do not overlap, a quarter of their hull is empty.
    torch.testing.assert_close(l1, torch.tensor([[1.25], [0.75]]))
    torch.testing.assert_close(giou, torch.tensor([[0.25], [-0.5]]))


def test_a_pair_without_object():
    """No L1 of the object; GIoU of the subject, plus the distance of the object from the corner."""
    true = torch.tensor([LEFT_HALF]), torch.tensor([NOTHING])
    l1, giou = box_costs(
        torch.tensor([TOP_LEFT, TOP_LEFT]), torch.tensor([BOTTOM_RIGHT, TOP_LEFT]), *true
    )
    torch.testing.assert_close(l1, torch.tensor([[0.75], [0.75]]))
    # Bottom right with the corner point: 3/4 of the hull are empty. Top left touches the corner.
    torch.testing.assert_close(giou, torch.tensor([[-0.5 + 0.75], [-0.5]]))


def test_which_pairs_have_an_object():
    boxes = torch.tensor([NOTHING, LEFT_HALF, [0.0, 0.0, 0.1, 0.0]])
    assert has_object(boxes).tolist() == [False, True, True]


def judged(**changes):
    """Two queries against two pairs, the second without object; C = 2, V = 2."""
    outputs = {
        "pred_obj_logits": torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0]]),
        "pred_verb_logits": torch.tensor([[0.0, 0.0], [logit(0.9), logit(0.2)]]),
        "pred_sub_boxes": torch.tensor([LEFT_HALF, TOP_LEFT]),
        "pred_obj_boxes": torch.tensor([TOP_LEFT, RIGHT_HALF]),
    }
    targets = {
        "obj_labels": torch.tensor([0, 2]),
        "verb_labels": torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
        "sub_boxes_cxcywh": torch.tensor([LEFT_HALF, LEFT_HALF]),
        "obj_boxes_cxcywh": torch.tensor([RIGHT_HALF, NOTHING]),
    }
    weights = {"object_weight": 0.0, "verb_weight": 0.0, "l1_weight": 0.0, "giou_weight": 0.0}
    return interaction_cost(outputs, targets, **{**weights, **changes})


TERMS = {
    # "No object" is a class like others for the pair without one.
    "object_weight": [[-1 / 3, -1 / 3], [-1 / 2, -1 / 4]],
    "verb_weight": [[-0.5 / 1.0001, -0.5 / 2.0001], [-0.85 / 1.0001, -0.55 / 2.0001]],
    "l1_weight": [[1.25, 0.0], [0.75, 0.75]],
    # Last: right half and the corner point: half of the hull is empty.
    "giou_weight": [[0.25, -1.0], [-0.5, -0.5 + 0.5]],
}


@pytest.mark.parametrize("weights", [*({term: 3.0} for term in TERMS), dict.fromkeys(TERMS, 2.0)])
def test_cost_by_hand(weights):
    expected = sum(weight * torch.tensor(TERMS[term]) for term, weight in weights.items())
    torch.testing.assert_close(judged(**weights), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("num_pairs", [2, 0])
def test_cost_keeps_leading_axes(num_pairs):
    shapes = {"pred_obj_logits": 4, "pred_verb_logits": 6, "pred_sub_boxes": 4, "pred_obj_boxes": 4}
    outputs = {name: torch.rand(2, 3, 5, size) for name, size in shapes.items()}
    targets = {
        "obj_labels": torch.arange(num_pairs),
        "verb_labels": torch.ones(num_pairs, 6),
        "sub_boxes_cxcywh": torch.rand(num_pairs, 4),
        "obj_boxes_cxcywh": torch.rand(num_pairs, 4),
    }
    cost = interaction_cost(outputs, targets, 1.0, 1.0, 2.5, 1.0)
    assert cost.shape == (2, 3, 5, num_pairs)
    alone = {name: tensor[1, 2] for name, tensor in outputs.items()}
    torch.testing.assert_close(cost[1, 2], interaction_cost(alone, targets, 1.0, 1.0, 2.5, 1.0))
