import numpy as np
import pytest

from projects.detr.picture import Picture
from projects.qpic.picture import (
    HUMAN,
    LINE,
    MISSED,
    OBJECT,
    Pair,
    distinct_pairs,
    legend,
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


def test_legend_explains_true_pairs_only_where_there_are_some():
    def labels(true):
        picture = Picture("", np.zeros((9, 9, 3), np.uint8), markings_of([], true))
        return [handle.get_label() for handle in legend([picture])]

    assert labels([]) == ["human", "object", "verb, score"]
    assert labels([pair()])[-1] == "true, named where not found at IoU 0.5"
