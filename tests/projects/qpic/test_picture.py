import numpy as np
import pytest
from matplotlib.colors import to_hex

from projects.detr.picture import Picture
from projects.figure import add_axes, new_figure
from projects.qpic.picture import (
    HUMAN,
    OBJECT,
    Pair,
    distinct_pairs,
    draw_pairs,
    missed_pairs,
    pair_kinds,
)

HERE, NEAR, FAR = (10, 10, 50, 90), (12, 10, 52, 90), (100, 10, 140, 90)
BALL, BALL_NEAR = (60, 40, 80, 60), (61, 41, 81, 61)


def pair(human=HERE, thing=BALL, name="ball", verbs=("hold",), scores=(), **more):
    return Pair(human, thing, name, list(verbs), list(scores), **more)


def test_labels():
    assert pair().label == "hold ball"
    assert pair(thing=None, name="", verbs=["wave"]).label == "wave"
    assert (
        pair(verbs=["hold", "lift"], scores=[0.876, 0.5]).label == "hold ball 0.88\nlift ball 0.50"
    )


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (pair(NEAR, BALL_NEAR, verbs=["lift"]), True),
        (pair(FAR), False),
        (pair(thing=FAR), False),
        (pair(name="kite"), False),
        (pair(thing=None, name=""), False),
    ],
)
def test_same_place_is_both_boxes_and_the_class(other, same):
    assert pair().is_where(other) == other.is_where(pair()) == same


def test_pairs_without_object_are_compared_by_their_humans():
    waving = pair(thing=None, name="", verbs=["wave"])
    assert waving.is_where(pair(NEAR, None, "", ["wave"]))
    assert not waving.is_where(pair(FAR, None, "", ["wave"]))


def test_a_verb_is_drawn_once_from_the_surest_query():
    weak = pair(verbs=["hold", "lift"], scores=[0.5, 0.4], query=0)
    sure = pair(NEAR, BALL_NEAR, verbs=["hold"], scores=[0.9], query=1)
    again = pair(verbs=["hold"], scores=[0.3], query=2)
    elsewhere = pair(FAR, verbs=["hold"], scores=[0.2], query=3)
    kept = distinct_pairs([weak, again, elsewhere, sure])
    assert [(p.query, p.verbs, p.scores) for p in kept] == [
        (1, ["hold"], [0.9]),
        (0, ["lift"], [0.4]),
        (3, ["hold"], [0.2]),
    ]


def test_missed_verbs():
    true = [pair(verbs=["hold", "lift"]), pair(FAR, thing=None, name="", verbs=["wave"])]
    found = [pair(NEAR, verbs=["lift"], scores=[0.9])]
    assert [(p.human, p.verbs) for p in missed_pairs(true, found)] == [
        (HERE, ["hold"]),
        (FAR, ["wave"]),
    ]
    assert missed_pairs(true[:1], [pair(verbs=["hold", "lift"], scores=[0.9, 0.8])]) == []


def drawn(picture):
    height, width = picture.image.shape[:2]
    axes = add_axes(new_figure(width, height), 0, 0, width, height)
    draw_pairs(picture, axes)
    return axes


def blank(predicted, true=()):
    return Picture("a", np.full((400, 600, 3), 90, np.uint8), predicted, true)


def test_draws_boxes_line_and_label():
    axes = drawn(blank([pair(verbs=["hold"], scores=[0.9]).scaled(3)]))
    boxes = [(to_hex(p.get_edgecolor(), keep_alpha=False).upper(), p) for p in axes.patches]
    assert [colour for colour, _ in boxes] == [HUMAN, OBJECT]
    assert boxes[1][1].get_xy() == (179.5, 119.5)
    assert (boxes[1][1].get_width(), boxes[1][1].get_height()) == (60, 60)
    (line,) = axes.lines
    # Pixel centres lie at whole numbers, so the image's corner at -0.5.
    np.testing.assert_allclose(line.get_xydata(), [[89.5, 149.5], [209.5, 149.5]])
    assert line.get_linestyle() == "-"
    assert [(t.get_text(), t.get_bbox_patch().get_facecolor()) for t in axes.texts] == [
        ("hold ball 0.90", pytest.approx((0xF0 / 255, 0xE4 / 255, 0x42 / 255, 1.0)))
    ]


def test_draws_what_was_missed():
    found = pair(verbs=["hold"], scores=[0.9])
    true = [pair(verbs=["hold", "lift"]), pair(FAR, thing=None, name="", verbs=["wave"])]
    axes = drawn(blank([found], true))
    assert {text.get_text() for text in axes.texts} == {"hold ball 0.90", "lift ball", "wave"}
    assert len(axes.patches) == 2 + 2 + 1  # no object box for who waves
    assert [line.get_linestyle() for line in axes.lines] == ["--", "-"]
    labels = [handle.get_label() for handle in pair_kinds([blank([found], true)])]
    assert labels[-1] == "true, named where not found at IoU 0.5"
    assert len(pair_kinds([blank([found])])) == len(labels) - 1


def test_scaling_takes_everything_along():
    picture = blank([pair(scores=[0.5])], [pair(thing=None, name="")]).scaled(0.5)
    assert picture.image.shape == (200, 300, 3)
    assert picture.predicted[0].human == (5, 5, 25, 45)
    assert picture.predicted[0].object == (30, 20, 40, 30)
    assert picture.true[0].object is None
