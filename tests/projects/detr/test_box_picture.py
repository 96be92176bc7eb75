import numpy as np

from projects.detr.box_picture import Box, legend, markings_of, true_boxes
from projects.detr.coco import load_coco, read_categories
from projects.detr.picture import Picture


def test_true_boxes_keep_their_names_and_crowds(write_coco):
    images, annotations = map(str, write_coco())
    record = load_coco(images, annotations)[0]
    boxes = true_boxes(record, read_categories(annotations).class_names)
    assert [(box.corners, box.annotation().label) for box in boxes] == [
        ((5, 6, 25, 16), "ship"),
        ((0, 0, 60, 40), "tree (crowd)"),
    ]


def test_labels_are_short():
    labels = [Box((0, 0, 9, 9), name, 0.5).annotation().label for name in ("pear", "p" * 40)]
    assert labels == ["pear 0.50", "p" * 27 + "… 0.50"]


def test_only_what_was_missed_is_named_a_second_time():
    predicted = [
        Box((10, 10, 40, 40), "cat", 0.987),
        Box((60, 60, 90, 90), "dog", 0.5),
        Box((10, 60, 40, 90), "cat", 0.3),  # over the crowd, which is named all the same
    ]
    true = [
        Box((12, 12, 40, 40), "cat"),  # found
        Box((60, 60, 90, 90), "cow"),  # taken for a dog
        Box((60, 10, 90, 40), "cat"),  # overlooked
        Box((10, 60, 40, 90), "cat", is_crowd=True),
    ]
    drawn = markings_of(predicted, true)
    labels = ["cat 0.99", "dog 0.50", "cat 0.30", "", "cow", "cat", "cat (crowd)"]
    assert [annotation.label for annotation in drawn] == labels
    assert [annotation.is_true for annotation in drawn] == [False] * 3 + [True] * 4
    assert [annotation.is_crowd for annotation in drawn] == [False] * 6 + [True]


def test_legend_explains_only_what_is_there():
    def explained(true):
        picture = Picture("", np.zeros((50, 50, 3), np.uint8), markings_of([], true))
        return [handle.get_label().split(",")[0] for handle in legend([picture])]

    box, crowd = Box((5, 5, 45, 45), "cat"), Box((5, 5, 45, 45), "cat", is_crowd=True)
    assert explained([]) == ["predicted"]
    assert explained([box]) == ["predicted", "true"]
    assert explained([box, crowd]) == ["predicted", "true", "crowd"]
