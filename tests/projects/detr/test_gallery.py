import numpy as np
import pytest
import torch

from projects.detr.coco import load_coco, read_categories
from projects.detr.gallery import (
    Box,
    legend,
    markings_of,
    predicted_boxes,
    surest_points,
    true_boxes,
)
from projects.detr.picture import Picture


def test_true_boxes_keep_their_names_and_crowds(write_coco):
    images, annotations = map(str, write_coco())
    record = load_coco(images, annotations)[0]
    boxes = true_boxes(record, read_categories(annotations).class_names)
    assert [(box.corners, box.annotation().label) for box in boxes] == [
        ((5, 6, 25, 16), "ship"),
        ((0, 0, 60, 40), "tree (crowd)"),
    ]


def test_predicted_boxes_are_those_above_the_threshold_the_surest_first():
    detections = {
        "scores": torch.tensor([0.2, 0.5, 0.9]),
        "labels": torch.tensor([0, 1, 0]),
        "boxes_xyxy": torch.arange(12.0).view(3, 4),
    }
    boxes = predicted_boxes(detections, ["apple", "p" * 40], 0.5)
    assert [box.annotation().label for box in boxes] == ["apple 0.90", "p" * 27 + "… 0.50"]
    assert boxes[1].corners == (4, 5, 6, 7)


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


def test_points_are_the_centres_of_the_surest_one_for_each_object():
    corners = torch.arange(0, 60, 10.0).view(-1, 1) + torch.tensor([0.0, 5, 10, 15])
    detections = {
        "scores": torch.tensor([0.2, 0.9, 0.5, 0.1, 0.05, 0.8]),
        "labels": torch.tensor([0, 1, 0, 0, 0, 0]),
        "boxes_xyxy": corners,
    }
    corners[5] = corners[1] + 1  # the same object again
    points = surest_points({"width": 100, "height": 50}, detections, ["apple", "pear"])
    labels = ["pear 0.90", "apple 0.50", "apple 0.20", "apple 0.10"]
    assert [point.label for point in points] == labels
    assert (points[0].x, points[0].y) == pytest.approx((0.15, 0.4))
