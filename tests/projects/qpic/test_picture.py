import numpy as np
import pytest
import torch

from projects.drawing import draw_pictures
from projects.qpic import picture
from projects.qpic.evaluation import HicoDetEvaluator
from projects.qpic.picture import (
    HUMAN,
    LINE,
    MISSED,
    OBJECT,
    Pair,
    distinct_pairs,
    markings_of,
)

HERE, NEAR, FAR = (10, 10, 50, 90), (12, 10, 52, 90), (100, 10, 140, 90)
BALL, BALL_NEAR = (60, 40, 80, 60), (61, 41, 81, 61)


def pair(human=HERE, thing=BALL, name="ball", verbs=("hold",), scores=None, query=0):
    """A predicted pair if it has scores, else a true one."""
    if scores is None:
        return Pair(human, thing, name, dict.fromkeys(verbs))
    return Pair(human, thing, name, dict(zip(verbs, scores, strict=True)), query)


def test_labels():
    assert pair().label == "hold ball"
    assert pair(thing=None, name="", verbs=["wave"]).label == "wave"
    found = pair(verbs=["hold", "lift"], scores=[0.876, 0.5])
    assert found.label == "hold ball 0.88\nlift ball 0.50"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (pair(), pair(NEAR, BALL_NEAR, verbs=["lift"]), True),
        (pair(), pair(FAR), False),
        (pair(), pair(thing=FAR), False),
        (pair(), pair(name="kite"), False),
        (pair(), pair(thing=None, name=""), False),
        (pair(thing=None), pair(NEAR, None), True),
        (pair(thing=None), pair(FAR, None), False),
    ],
)
def test_same_place_is_both_boxes_and_the_class(one, other, same):
    assert one.is_where(other) == other.is_where(one) == same


def test_a_verb_is_drawn_once_from_the_surest_query():
    weak = pair(verbs=["hold", "lift"], scores=[0.5, 0.4], query=0)
    sure = pair(NEAR, BALL_NEAR, verbs=["hold"], scores=[0.9], query=1)
    again = pair(verbs=["hold"], scores=[0.3], query=2)
    elsewhere = pair(FAR, verbs=["hold"], scores=[0.2], query=3)
    kept = distinct_pairs([weak, again, elsewhere, sure])
    assert [(p.query, p.verbs) for p in kept] == [
        (1, {"hold": 0.9}),
        (0, {"lift": 0.4}),
        (3, {"hold": 0.2}),
    ]


def test_true_pairs_are_drawn_with_the_verbs_that_were_not_found():
    true = [pair(verbs=["hold", "lift"]), pair(FAR, thing=None, name="", verbs=["wave"])]
    found = [pair(NEAR, verbs=["lift"], scores=[0.9])]
    drawn = markings_of(found, true)
    assert [(a.boxes, a.label) for a in drawn] == [
        ([NEAR, BALL], "lift ball 0.90"),
        ([HERE, BALL], "hold ball"),
        ([FAR], "wave"),
    ]
    assert [list(a.colours) for a in drawn] == [[HUMAN, OBJECT]] * 2 + [[HUMAN]]
    assert [a.label_colour for a in drawn] == [LINE, MISSED, MISSED]
    assert [a.is_true for a in drawn] == [False, True, True]
    all_found = [pair(verbs=["hold", "lift"], scores=[0.9, 0.8])]
    assert markings_of(all_found, true[:1])[1].label == ""


def test_evaluator_draws_pairs_that_are_found_on_an_image_and_pairs_that_are_there(monkeypatch):
    pages = []

    def draw(*given):
        pages.append(given)
        return draw_pictures(*given)

    monkeypatch.setattr(picture, "draw_pictures", draw)
    man, kite, ball = [2, 1, 12, 31], [20, 0, 29, 9], [40, 10, 50, 20]
    truth = {"boxes_xyxy": np.array([man, kite, ball], np.float32), "labels": [0, 1, 2]}
    truth["hois"] = [(0, 1, 0), (0, 2, 1), (0, 1, 1), (0, -1, 1)]
    nothing = {"boxes_xyxy": [], "labels": [], "hois": []}
    names = {"object_names": ["person", "kite", "ball"], "verb_names": ["hold", "watch"]}
    evaluator = HicoDetEvaluator({4: nothing, 7: truth}, np.ones((2, 3)), [], [], **names)
    samples = [
        {"image_id": n, "file_name": f"/data/{n}.jpg", "height": 40, "width": 60}
        | {"image": torch.full((3, 20, 30), 9, dtype=torch.uint8)}  # resized
        for n in (7, 4)
    ]
    output = {
        "sub_boxes": torch.tensor([man, man, man], dtype=torch.float32),
        "obj_boxes": torch.tensor([kite, ball, kite], dtype=torch.float32),
        "obj_labels": torch.tensor([1, 2, 1]),
        "verb_scores": torch.tensor([[0.4, 0.9], [0.1, 0.2], [0.3, 0.2]]),
    }
    page = evaluator.draw(samples[:1], [output])
    evaluator.draw(samples[1:], [output], score_threshold=1.0)
    assert (page.dtype, page.ndim, page.shape[2]) == (np.uint8, 3, 3)
    assert pages[1][0][0].markings == []
    legends = [[entry.caption for entry in legend] for _, _, legend in pages]
    assert legends[1] == ["human", "object", "verb, score"]
    assert legends[0] == [*legends[1], "true, named where not found at IoU 0.5"]
    (drawn,) = pages[0][0]
    assert drawn.title == "7.jpg"
    assert drawn.image.shape == (40, 60, 3)
    assert [(each.label, *each.boxes, each.is_true) for each in drawn.markings] == [
        ("watch kite 0.90\nhold kite 0.40", tuple(man), tuple(kite), False),
        ("", tuple(man), tuple(kite), True),  # found
        ("watch ball", tuple(man), tuple(ball), True),
        ("watch", tuple(man), True),
    ]
