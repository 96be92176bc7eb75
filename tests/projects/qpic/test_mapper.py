import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from projects.qpic import QpicMapper

PERSON, DOG = 0, 1
STILL = {"flip_probability": 0, "crop_probability": 0, "colour_jitter": 0}


@pytest.fixture
def record(tmp_path):
    """A black image of 90 x 120 pixels with a red person and a green dog."""
    boxes = [[30, 20, 45, 65], [80, 40, 110, 60], [2, 2, 8, 20]]
    image = np.zeros((90, 120, 3), np.uint8)
    for (x1, y1, x2, y2), channel in zip(boxes[:2], (2, 1), strict=True):  # OpenCV's blue is 0
        image[y1:y2, x1:x2, channel] = 220
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), image)
    return {
        "file_name": str(path),
        "image_id": 3,
        "height": 90,
        "width": 120,
        "boxes_xyxy": boxes,
        "labels": [PERSON, DOG, PERSON],
        "hois": [(0, 1, 2), (2, -1, 3), (0, 1, 0), (0, 1, 2)],
    }


def mapper(**settings):
    sizes = {"num_object_classes": 2, "num_verb_classes": 4, "min_sizes": [90]}
    return QpicMapper(True, **{**sizes, **settings})


def seen(image, channel):
    """x0, y0, x1, y1 of what is red (0) or green (1), or None."""
    rows, columns = torch.nonzero(image[channel] > 110, as_tuple=True)
    if not len(rows):
        return None
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return torch.stack(ends).float()


def pixels_xyxy(boxes_cxcywh, image):
    height, width = image.shape[1:]
    boxes_xyxy = box_convert(boxes_cxcywh, "cxcywh", "xyxy")
    return boxes_xyxy * torch.tensor([width, height, width, height])


def test_one_row_per_pair_with_all_its_verbs(record):
    sample = mapper(**STILL)(record)
    # x: (30 + 45) / 2 / 120, y: (20 + 65) / 2 / 90
    person = [37.5 / 120, 42.5 / 90, 15 / 120, 45 / 90]
    dog = [95 / 120, 50 / 90, 30 / 120, 20 / 90]
    waving = [5 / 120, 11 / 90, 6 / 120, 18 / 90]
    torch.testing.assert_close(sample["sub_boxes_cxcywh"], torch.tensor([person, waving]))
    torch.testing.assert_close(sample["obj_boxes_cxcywh"], torch.tensor([dog, [0.0, 0, 0, 0]]))
    assert sample["obj_labels"].tolist() == [DOG, 2]  # 2: no object
    assert sample["verb_labels"].tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
    assert sample["obj_labels"].dtype == torch.int64
    assert sample["verb_labels"].dtype == torch.float32
    assert sample["image"].dtype == torch.uint8
    assert {type(value) for value in sample.values() if hasattr(value, "shape")} == {torch.Tensor}
    assert (sample["image_id"], sample["height"], sample["width"]) == (3, 90, 120)
    pixels = torch.from_numpy(cv2.imread(record["file_name"])[..., ::-1].copy())
    assert torch.equal(sample["image"].permute(1, 2, 0), pixels)


@pytest.mark.parametrize("seed", range(40))
def test_both_boxes_stay_where_they_are_seen_under_every_augmentation(record, seed):
    torch.manual_seed(seed)
    sample = mapper(
        min_sizes=[60, 90, 130],
        max_size=150,
        crop_min_sizes=[70, 110],
        crop_range=[40, 90],
        colour_jitter=0,
    )(record)
    person, dog = (seen(sample["image"], channel) for channel in (0, 1))
    rows = [row for row, label in enumerate(sample["obj_labels"].tolist()) if label == DOG]
    if not rows:  # the crop took one of the two
        assert person is None or dog is None
        return
    # One pixel before the last resize, which enlarges up to 130 / 40 times.
    for name, there in (("sub_boxes_cxcywh", person), ("obj_boxes_cxcywh", dog)):
        box = pixels_xyxy(sample[name][rows[0]], sample["image"])
        torch.testing.assert_close(box, there, atol=3.5, rtol=0)


def test_boxes_are_clipped_and_those_outside_take_their_pairs_along(record):
    record["boxes_xyxy"] = [[-10, -10, 10, 10], [110, 80, 150, 100], [130, 0, 140, 9]]
    record["hois"] = [(0, 1, 0), (0, 2, 1), (2, -1, 3), (2, 1, 1)]
    sample = mapper(**STILL)(record)
    assert sample["verb_labels"].tolist() == [[1, 0, 0, 0]]
    expected = [[5 / 120, 5 / 90, 10 / 120, 10 / 90]]
    torch.testing.assert_close(sample["sub_boxes_cxcywh"], torch.tensor(expected))
    expected = [[115 / 120, 85 / 90, 10 / 120, 10 / 90]]
    torch.testing.assert_close(sample["obj_boxes_cxcywh"], torch.tensor(expected))


def test_boxes_that_are_not_finite_take_their_pairs_along(record):
    record["boxes_xyxy"][0][1] = float("nan")
    assert mapper(**STILL)(record)["verb_labels"].tolist() == [[0, 0, 0, 1]]


def test_an_image_without_pairs_gives_empty_targets(record):
    sample = mapper()({**record, "boxes_xyxy": [], "labels": [], "hois": []})
    assert sample["sub_boxes_cxcywh"].shape == sample["obj_boxes_cxcywh"].shape == (0, 4)
    assert sample["obj_labels"].shape == (0,)
    assert sample["obj_labels"].dtype == torch.int64
    assert sample["verb_labels"].shape == (0, 4)


def test_colours_change_by_at_most_what_is_asked_and_boxes_do_not(record):
    plain = mapper(**STILL)(record)
    values = set()
    for seed in range(30):
        torch.manual_seed(seed)
        sample = mapper(**{**STILL, "colour_jitter": 0.4})(record)
        assert torch.equal(sample["sub_boxes_cxcywh"], plain["sub_boxes_cxcywh"])
        values.add(int(sample["image"][1, 50, 95]))
    assert len(values) > 10
    # Darkest: brightness and contrast to 0.6, saturation to 0.6 of green (with 0.587 of its grey).
    assert min(values) >= int(220 * 0.6 * 0.6 * (0.6 + 0.4 * 0.587))


def test_testing_resizes_to_the_largest_size_and_gives_no_targets(record):
    sample = QpicMapper(False, min_sizes=[60, 180])(record)
    assert sample["image"].shape == (3, 180, 240)
    assert (sample["height"], sample["width"]) == (90, 120)
    assert not {"sub_boxes_cxcywh", "obj_labels", "verb_labels"} & sample.keys()


def test_default_classes_and_sizes_are_those_of_hico_det(record):
    torch.manual_seed(0)
    sample = QpicMapper(True)(record)
    assert sample["verb_labels"].shape[1] == 117
    assert set(sample["obj_labels"].tolist()) <= {DOG, 80}
    assert min(sample["image"].shape[1:]) >= 480
    assert min(QpicMapper(False)(record)["image"].shape[1:]) == 800
