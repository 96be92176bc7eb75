import math

import pytest
import torch

from projects.qpic.losses import InteractionLoss, verb_focal_loss

LEFT_HALF = [0.25, 0.5, 0.5, 1.0]
RIGHT_HALF = [0.75, 0.5, 0.5, 1.0]
TOP_LEFT = [0.25, 0.25, 0.5, 0.5]
NOTHING = [0.0, 0.0, 0.0, 0.0]
NAMES = [
    f"loss_{part}" for part in ("obj_ce", "verb_ce", "sub_bbox", "obj_bbox", "sub_giou", "obj_giou")
]


def outputs(sub_boxes, obj_boxes, obj_logits=None, verb_logits=None):
    """Of one decoder layer, one image or several; classes are even (C = 2, V = 2) unless given."""
    shape = torch.tensor(sub_boxes).shape[:-1]
    tensors = {
        "pred_obj_logits": torch.zeros(*shape, 3) if obj_logits is None else obj_logits,
        "pred_verb_logits": torch.zeros(*shape, 2) if verb_logits is None else verb_logits,
        "pred_sub_boxes": torch.tensor(sub_boxes),
        "pred_obj_boxes": torch.tensor(obj_boxes),
    }
    return {name: tensor[None].clone().requires_grad_() for name, tensor in tensors.items()}


def pairs(*rows):
    """Targets of an image: rows (subject box, object box, object label, verbs)."""
    sub_boxes, obj_boxes, labels, verbs = zip(*rows, strict=True) if rows else ([],) * 4
    return {
        "sub_boxes_cxcywh": torch.tensor(sub_boxes).reshape(-1, 4),
        "obj_boxes_cxcywh": torch.tensor(obj_boxes).reshape(-1, 4),
        "obj_labels": torch.tensor(labels, dtype=torch.int64),
        "verb_labels": torch.tensor(verbs).reshape(-1, 2),
    }


PAIRS = (LEFT_HALF, RIGHT_HALF, 0, [1.0, 0.0]), (RIGHT_HALF, TOP_LEFT, 1, [1.0, 1.0])


def crossed():
    """Outputs whose query 0 is nearer to pair 1 of ``PAIRS``, query 1 to pair 0; even classes."""
    return outputs([[RIGHT_HALF, TOP_LEFT]], [[LEFT_HALF, RIGHT_HALF]])


# ---- verbs ---------------------------------------------------------------------------------------
def focal(probability):
    """Cost of a verb that is there, predicted with this probability."""
    return -((1 - probability) ** 2) * math.log(probability)


def test_focal_loss_by_hand():
    """Two cells with the verb at 1/4 and 1/2, two without at 1/4 and 3/4: divided by two."""
    logits = torch.tensor([[-math.log(3), 0.0], [-math.log(3), math.log(3)]])[None, None]
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0]])[None, None]
    loss = verb_focal_loss(logits, labels)
    expected = (focal(0.25) + focal(0.5) + focal(0.75) + focal(0.25)) / 2
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_focal_loss_without_any_verb_is_a_sum():
    loss = verb_focal_loss(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    torch.testing.assert_close(loss, torch.tensor([24 * focal(0.5)]))


def test_focal_loss_counts_each_layer_over_the_whole_batch():
    labels = torch.zeros(2, 3, 1, 2)
    labels[0, :2, 0, 0] = labels[1, 0, 0, 1] = 1  # two cells in the first layer, one in the second
    loss = verb_focal_loss(torch.zeros(2, 3, 1, 2), labels)
    torch.testing.assert_close(loss, torch.tensor([6 * focal(0.5) / 2, 6 * focal(0.5)]))


@pytest.mark.parametrize("size", [17.0, 120.0, 1e4, 1e30])
def test_saturated_verbs_stay_finite(size):
    """Sure and right costs nothing; sure and wrong costs the logit, and its gradient is not lost.

    The official logarithm of a float32 sigmoid is -inf or, times zero, NaN in all four cells.
    """
    logits = torch.tensor([size, -size, size, -size]).view(1, 1, 1, 4).requires_grad_()
    loss = verb_focal_loss(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4))
    torch.testing.assert_close(loss, torch.tensor([(0 + 0 + size + size) / 2]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0.0, 0.0, 0.5, -0.5]))


def test_focal_loss_equals_the_plain_formula_where_that_is_exact():
    """In double precision, over the logits that training sees."""
    p = torch.linspace(-12, 12, 97, dtype=torch.double).sigmoid()
    single = torch.linspace(-12, 12, 97).view(1, 1, 1, -1)
    with_verb = -((1 - p) ** 2 * p.log()).sum() / len(p)
    without = -(p**2 * (1 - p).log()).sum()
    for label, expected in ((1.0, with_verb), (0.0, without)):
        ours = verb_focal_loss(single, torch.full_like(single, label)).double()
        torch.testing.assert_close(ours, expected[None], rtol=1e-6, atol=0)


# ---- all together --------------------------------------------------------------------------------
def test_two_queries_two_pairs_by_hand():
    """Query 0 answers for pair 1 and the other way round, whatever their order in the file."""
    losses = InteractionLoss()(crossed(), [pairs(*PAIRS)])
    assert list(losses) == NAMES
    # The subjects are top left for left half (L1 0.75, GIoU 1/2) and a perfect one, the objects a
    # perfect one and left half for top left.
    expected = {
        "loss_obj_ce": math.log(3),
        "loss_verb_ce": 4 * focal(0.5) / 3,
        "loss_sub_bbox": 2.5 * 0.75 / 2,
        "loss_obj_bbox": 2.5 * 0.75 / 2.0001,
        "loss_sub_giou": 0.5 / 2,
        "loss_obj_giou": 0.5 / 2.0001,
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, 1e-5)


def test_classes_and_verbs_go_to_the_query_that_answers():
    """Crossed as above, and each query is sure of what the pair it answers for has."""
    sure = 20.0
    judged = outputs(
        [[RIGHT_HALF, LEFT_HALF]],
        [[TOP_LEFT, RIGHT_HALF]],
        torch.tensor([[[-sure, sure, -sure], [sure, -sure, -sure]]]),
        torch.tensor([[[-sure, sure], [sure, -sure]]]),
    )
    target = pairs((LEFT_HALF, RIGHT_HALF, 0, [1.0, 0.0]), (RIGHT_HALF, TOP_LEFT, 1, [0.0, 1.0]))
    losses = InteractionLoss()(judged, [target])
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        dict.fromkeys(NAMES, 0.0), abs=1e-6
    )


def test_object_classification_is_a_weighted_mean():
    """One object at probability 1/2, one empty query at 1/4 for "no object"."""
    logits = torch.tensor([[[math.log(2), 0.0, 0.0], [0.0, math.log(2), 0.0]]])
    judged = outputs([[LEFT_HALF, RIGHT_HALF]], [[LEFT_HALF, RIGHT_HALF]], logits)
    losses = InteractionLoss()(judged, [pairs((LEFT_HALF, LEFT_HALF, 0, [0.0, 1.0]))])
    expected = (math.log(2) + 0.1 * math.log(4)) / 1.1
    assert losses["loss_obj_ce"].item() == pytest.approx(expected)


def test_a_pair_without_object():
    """It teaches the class "no object", subject and verbs, and nothing about the object's box.

    The subjects' losses are divided by two pairs, those of the objects by one object.
    """
    judged = outputs([[LEFT_HALF, TOP_LEFT]], [[TOP_LEFT, TOP_LEFT]])  # query 0 answers for pair 1
    target = pairs((LEFT_HALF, LEFT_HALF, 0, [1.0, 0.0]), (RIGHT_HALF, NOTHING, 2, [0.0, 1.0]))
    losses = InteractionLoss()(judged, [target])
    assert losses["loss_obj_bbox"].item() == pytest.approx(2.5 * 0.75 / 1.0001)
    assert losses["loss_obj_giou"].item() == pytest.approx(0.5 / 1.0001, rel=1e-5)
    assert losses["loss_sub_bbox"].item() == pytest.approx(2.5 * 1.25 / 2)
    assert losses["loss_obj_ce"].item() == pytest.approx(math.log(3))
    sum(losses.values()).backward()
    assert torch.equal(judged["pred_obj_boxes"].grad[0, 0, 0], torch.zeros(4))
    towards_nothing = judged["pred_obj_logits"].grad[0, 0, 0]
    assert towards_nothing[2] < 0 < towards_nothing[0]


def test_weights_scale_losses():
    judged = outputs([[TOP_LEFT]], [[TOP_LEFT]])
    target = pairs((LEFT_HALF, RIGHT_HALF, 0, [1.0, 0.0]))
    once = InteractionLoss(1, 1, 1, 1)(judged, [target])
    scaled = InteractionLoss(2, 3, 4, 5)(judged, [target])
    for name, factor in zip(NAMES, (2, 3, 4, 4, 5, 5), strict=True):
        torch.testing.assert_close(scaled[name], factor * once[name])
        assert once[name] != 0


def test_each_layer_is_matched_by_itself():
    """The layers see the same boxes in other orders: box losses 0 in both, never crossed."""
    first = outputs([[LEFT_HALF, RIGHT_HALF]], [[TOP_LEFT, LEFT_HALF]])
    last = outputs([[RIGHT_HALF, LEFT_HALF]], [[LEFT_HALF, TOP_LEFT]])
    both = {name: torch.cat([first[name], last[name]]) for name in first}
    target = pairs((LEFT_HALF, TOP_LEFT, 0, [1.0, 0.0]), (RIGHT_HALF, LEFT_HALF, 1, [0.0, 1.0]))
    losses = InteractionLoss()(both, [target])
    assert set(losses) == {name + layer for name in NAMES for layer in ("", "_0")}
    for name, loss in losses.items():
        if "bbox" in name or "giou" in name:
            assert loss.item() == pytest.approx(0.0, abs=1e-6), name


def test_pairs_count_over_the_whole_batch():
    """Two images, three pairs, and an image without any."""
    judged = outputs([[LEFT_HALF] * 2] * 3, [[LEFT_HALF] * 2] * 3)
    row = (RIGHT_HALF, TOP_LEFT, 0, [1.0, 0.0])
    losses = InteractionLoss()(judged, [pairs(row, row), pairs(), pairs(row)])
    assert losses["loss_sub_bbox"].item() == pytest.approx(2.5 * 3 * 0.5 / 3)
    assert losses["loss_obj_bbox"].item() == pytest.approx(2.5 * 3 * 0.75 / 3.0001)
    assert losses["loss_verb_ce"].item() == pytest.approx(12 * focal(0.5) / 3)


def test_batch_without_any_pair():
    """ "No object" and no verb are taught; the boxes get a gradient of zero rather than none."""
    judged = outputs([[LEFT_HALF, RIGHT_HALF]] * 2, [[LEFT_HALF, RIGHT_HALF]] * 2)
    losses = InteractionLoss()(judged, [pairs(), pairs()])
    for name in NAMES[2:]:
        assert losses[name].item() == 0.0
    assert losses["loss_obj_ce"].item() == pytest.approx(math.log(3))
    assert losses["loss_verb_ce"].item() == pytest.approx(8 * focal(0.5))
    sum(losses.values()).backward()
    for name in ("pred_sub_boxes", "pred_obj_boxes"):
        assert torch.equal(judged[name].grad, torch.zeros(1, 2, 2, 4))
    assert (judged["pred_verb_logits"].grad > 0).all()


@pytest.mark.parametrize("size", [200.0, 1e6])
def test_saturated_outputs_stay_finite(size):
    """Logits of any finite size, boxes shrunk to points and spread over everything."""
    signs = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    judged = outputs(
        [[NOTHING, [0.5, 0.5, 1.0, 1.0]]],
        [[NOTHING, NOTHING]],
        size * signs[None],
        size * signs[None, :, :2],
    )
    target = pairs((LEFT_HALF, NOTHING, 2, [1.0, 1.0]), (TOP_LEFT, TOP_LEFT, 1, [0.0, 0.0]))
    losses = InteractionLoss()(judged, [target])
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, tensor in judged.items():
        assert tensor.grad.isfinite().all(), name


def test_half_precision_outputs_are_judged_in_single():
    halves = {k: v.bfloat16() for k, v in crossed().items()}
    losses = InteractionLoss()(halves, [pairs((LEFT_HALF, RIGHT_HALF, 0, [1.0, 0.0]))])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert losses["loss_sub_bbox"].item() == pytest.approx(2.5 * 0.5)
