import numpy as np

from projects.qpic.ground_truth import image_truth

BOXES = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]


def truth(**changes):
    """Of an image with three boxes and three interactions, changed by keyword."""
    image = {
        "boxes_xyxy": BOXES,
        "labels": [0, 1, 0],
        "hois": [(2, 1, 0), (0, 1, 1), (0, 1, 1)],
    }
    return image_truth({**image, **changes})


def test_layout():
    found = truth()
    assert found.triplets == [(0, 1, 0), (0, 1, 1), (0, 1, 1)]
    assert found.boxes.tolist() == [BOXES[2] + BOXES[1], BOXES[0] + BOXES[1], BOXES[0] + BOXES[1]]
    assert found.first_copy.tolist() == [0, 1, 1]
    assert (found.objects, found.has_boxes) == ([1], True)
    nothing = truth(boxes_xyxy=[], labels=[], hois=[])
    assert (nothing.triplets, nothing.objects, nothing.has_boxes) == ([], [], False)
    assert nothing.boxes.shape == (0, 8)


def test_without_object():
    found = truth(hois=[(0, -1, 1), (2, 1, 0)])
    assert found.triplets == [(0, 1, 0)]
    assert found.objects == [1]  # both persons act


def test_objects_of_nobody_are_contained_and_so_are_persons_acted_on():
    assert truth(hois=[(0, 2, 1)]).objects == [1, 0]
    assert truth(hois=[(0, 2, 1)], labels=[0, 0, 1]).objects == [0, 1]
    # Who is acted on and acts in turn is there as an object, too.
    assert truth(hois=[(0, 2, 1), (2, 1, 0)]).objects == [1, 0]
    assert truth(hois=[], labels=[1, 1, 1]).objects == [1, 1, 1]


def test_dtype_of_boxes_is_kept():
    for dtype in (np.float32, np.float64):
        assert truth(boxes_xyxy=np.array(BOXES, dtype)).boxes.dtype == dtype
