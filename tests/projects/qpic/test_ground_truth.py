import math

import numpy as np

from projects.qpic.ground_truth import GroundTruth

BOXES = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]


def ground_truth(**changes):
    """An image without anything, and one (id 8) with three boxes and three interactions."""
    image = {
        "boxes_xyxy": BOXES,
        "labels": [0, 1, 0],
        "hois": [(2, 1, 0), (0, 1, 1), (0, 1, 1)],
        **changes,
    }
    empty = {"boxes_xyxy": [], "labels": [], "hois": []}
    return GroundTruth({3: empty, 8: image}, num_object_classes=2, num_verbs=2)


def test_layout():
    truth = ground_truth()
    assert truth.image_ids == [3, 8]
    assert truth.image.tolist() == [1, 1, 1]
    assert truth.triplets.tolist() == [[0, 1, 0], [0, 1, 1]]
    assert truth.triplet.tolist() == [0, 1, 1]
    assert truth.boxes.tolist() == [BOXES[2] + BOXES[1], BOXES[0] + BOXES[1], BOXES[0] + BOXES[1]]
    assert truth.first_copy.tolist() == [0, 1, 1]
    assert truth.has_boxes.tolist() == [False, True]
    assert truth.contains.tolist() == [[False, False], [False, True]]
    assert truth.num_without_object == 0


def test_without_object():
    truth = ground_truth(hois=[(0, -1, 1), (2, 1, 0)])
    assert truth.num_without_object == 1
    assert truth.triplets.tolist() == [[0, 1, 0]]
    assert truth.contains.tolist() == [[False, False], [False, True]]  # both persons act


def test_objects_of_nobody_are_contained_and_so_are_persons_acted_on():
    assert ground_truth(hois=[(0, 2, 1)]).contains[1].tolist() == [True, True]
    assert ground_truth(hois=[(0, 2, 1)], labels=[0, 0, 1]).contains[1].tolist() == [True, True]
    # Who is acted on and acts in turn is there as an object, too.
    truth = ground_truth(hois=[(0, 2, 1), (2, 1, 0)])
    assert truth.contains[1].tolist() == [True, True]
    assert ground_truth(hois=[], labels=[1, 1, 1]).contains[1].tolist() == [False, True]


def test_dtype_of_boxes_is_kept():
    for dtype in (np.float32, np.float64):
        assert ground_truth(boxes_xyxy=np.array(BOXES, dtype)).boxes.dtype == dtype


def test_boxes_that_are_not_finite_are_named():
    boxes = [BOXES[0], [0, math.nan, 1, 1], BOXES[2]]
    assert ground_truth(boxes_xyxy=boxes).not_finite == ["image 8, box 1"]
