import numpy as np
import pytest

from projects.qpic.true_positives import find_true_positives, overlaps

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


def test_image_and_triplet_must_be_the_same():
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


def test_the_second_of_two_in_the_same_places_is_found_by_nobody():
    box = [0, 0, 9, 9]
    truths = [(1, box, box), (1, box, box)]  # by other boxes of the image, so no copies
    assert find([(1, box, box), (1, box, box)], truths) == [True, False]


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
