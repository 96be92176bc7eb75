import numpy as np
import pytest

from projects.qpic.average_precision import (
    eleven_point_ap,
    find_true_positives,
    overlaps,
    strongest_interactions,
)


def plainly(scores, labels, possible, limit):
    masked = [
        score * possible[labels[q]][v]
        for q, row in enumerate(scores)
        for v, score in enumerate(row)
    ]
    order = sorted(range(len(masked)), key=lambda cell: -masked[cell])[:limit]
    return order, [masked[cell] for cell in order]


@pytest.mark.parametrize("levels", [4, 1000])
@pytest.mark.parametrize("limit", [1, 7, 20, 60, 200])
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_as_a_plain_stable_sort(levels, limit, part):
    rng = np.random.default_rng(limit)
    scores = (rng.integers(-1, levels, (12, 5)) / levels).astype(np.float32)
    labels = rng.integers(3, size=12)
    possible = rng.random((3, 5)) < part
    before = scores.copy()
    cells, chosen = strongest_interactions(scores, labels, possible, limit)
    expected_cells, expected = plainly(scores, labels, possible, limit)
    assert cells.tolist() == expected_cells
    assert chosen.tolist() == expected
    assert np.array_equal(scores, before)


def test_no_pairs():
    nothing = np.zeros((0, 5)), np.zeros(0, int), np.ones((3, 5), bool), 100
    assert [len(values) for values in strongest_interactions(*nothing)] == [0, 0]


FAR = [500, 500, 509, 509]


def find(predictions, truths, first_copy=None):
    """Flags of predictions (key, subject box, object box) among truths of the same kind."""

    def columns(rows):
        keys = np.array([row[0] for row in rows], np.int64)
        return keys, np.array([row[1] + row[2] for row in rows], float).reshape(-1, 8)

    if first_copy is None:
        first_copy = range(len(truths))
    return find_true_positives(
        *columns(predictions), *columns(truths), np.array(first_copy, np.int64)
    ).tolist()


def overlap(box, other):
    return overlaps(np.array([box], float), np.array([other], float))[0]


def test_sides_are_differences_plus_1():
    # 10 x 10 and 10 x 10 pixels that share 5 x 10: 50 of 150.
    assert overlap([0, 0, 9, 9], [5, 0, 14, 9]) == pytest.approx(50 / 150, abs=1e-15)
    assert overlap([0, 0, 9, 9], [0, 0, 9, 9]) == 1


def test_boxes_that_touch_or_have_no_width_do_not_overlap():
    assert overlap([0, 0, 9, 9], [9, 0, 20, 9]) == 0  # one shared column, if it were counted
    assert overlap([3, 0, 3, 9], [3, 0, 3, 9]) == 0
    assert overlap([0, 4, 9, 4], [0, 4, 9, 4]) == 0
    assert overlap([9, 9, 0, 0], [0, 0, 9, 9]) == 0


def test_a_box_that_is_not_finite_is_never_found():
    nan = [0, 0, np.nan, 9]
    assert not overlap(nan, nan) >= 0.5
    assert find([(1, nan, nan)], [(1, nan, nan)]) == [False]


def test_half_is_enough_and_less_is_not():
    box = [0, 0, 9, 9]
    half = [0, 0, 9, 19]  # 100 of 200 pixels
    assert overlap(box, half) == 0.5
    assert find([(1, box, half)], [(1, box, box)]) == [True]
    assert find([(1, box, [0, 0, 9, 20])], [(1, box, box)]) == [False]
    assert find([(1, [0, 0, 9, 20], box)], [(1, box, box)]) == [False]


def test_the_triplet_must_be_the_same():
    box = [0, 0, 9, 9]
    assert find([(1, box, box), (2, box, box), (3, box, box)], [(2, box, box)]) == [0, 1, 0]


def test_the_strongest_finds_and_later_ones_are_wrong():
    box = [0, 0, 9, 9]
    assert find([(1, box, [0, 0, 9, 8]), (1, box, box)], [(1, box, box)]) == [True, False]


def test_the_largest_smaller_overlap_decides():
    box = [0, 0, 9, 9]
    uneven = (1, box, [0, 0, 9, 15])  # overlaps box, box by 1 and 10/16
    even = (1, [0, 0, 9, 12], [0, 0, 9, 12])  # by 10/13 and 10/13: the larger smaller one
    only_uneven = (1, box, [0, 0, 9, 29])  # 16/30 of uneven's object, 13/30 of even's
    assert find([(1, box, box), only_uneven], [uneven, even]) == [True, True]
    assert find([(1, box, box), only_uneven], [even, uneven]) == [True, True]
    assert find([(1, box, box), only_uneven], [uneven]) == [True, False]
    assert find([only_uneven], [even]) == [False]


def test_no_second_choice_when_the_best_is_taken():
    best, other = [0, 0, 9, 9], [0, 0, 9, 11]
    truths = [(1, other, other), (1, best, best)]
    prediction = (1, best, best)
    # The second prediction overlaps ``other`` by 10/12, but its best is gone.
    assert find([prediction, prediction], truths) == [True, False]


def test_of_equally_good_ones_the_first_is_found():
    box, lower, higher = [0, 0, 9, 9], [0, 0, 9, 12], [0, -3, 9, 9]  # 10/13 of box each
    only_higher = (1, [0, -9, 9, 9], [0, -9, 9, 9])  # 13/19, and 10/22 of lower
    truths = [(1, lower, lower), (1, higher, higher)]
    assert find([(1, box, box), only_higher], truths) == [True, True]
    assert find([(1, box, box), only_higher], truths[::-1]) == [True, False]


def test_a_copy_is_found_in_the_place_of_its_first_listing():
    box, near = [0, 0, 9, 9], [0, 0, 9, 10]
    truths = [(1, box, box), (1, near, near)]
    predictions = [(1, box, box), (1, near, near)]
    assert find(predictions, truths) == [True, True]
    assert find(predictions, truths, first_copy=[0, 0]) == [True, False]


@pytest.mark.parametrize(("num_predictions", "num_truths"), [(0, 0), (0, 2), (2, 0)])
def test_nothing_to_compare(num_predictions, num_truths):
    row = (1, [0, 0, 9, 9], FAR)
    assert find([row] * num_predictions, [row] * num_truths) == [False] * num_predictions


@pytest.mark.parametrize(
    ("flags", "num_truths", "expected"),
    [
        ("T", 1, 1),
        ("TT", 2, 1),
        ("FT", 1, 1 / 2),  # precision 1/2 at all recalls
        ("T", 2, 6 / 11),  # precision 1 at 0, 0.1, ..., 0.5
        ("TF", 2, 6 / 11),  # what is wrong afterwards costs nothing
        # Precision 1, 2/3 and 3/5 at recalls 1/4, 2/4 and 3/4: 3, 3 and 2 of the eleven.
        ("TFTFT", 4, (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11),
        # Precision 1/3, then 2/4 at 2/2: the later one is better and counts everywhere.
        ("FFTT", 2, 1 / 2),
        ("FFF", 3, 0),
        ("", 3, 0),
        # Recalls of exactly 0.3, 0.6 and 0.7 do not reach QPIC's; 0.5 does.
        ("TTT", 10, 3 / 11),
        ("TTTTT", 10, 6 / 11),
        ("TTTTTT", 10, 6 / 11),
        ("TTTTTTT", 10, 7 / 11),
    ],
)
def test_worked_out_by_hand(flags, num_truths, expected):
    right = np.array([flag == "T" for flag in flags], bool)
    assert eleven_point_ap(right, num_truths) == pytest.approx(expected, abs=1e-15)
