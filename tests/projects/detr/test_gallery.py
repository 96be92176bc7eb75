import pytest
import torch

from projects.detr.gallery import surest_points


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
