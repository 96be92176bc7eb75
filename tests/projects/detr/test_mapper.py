import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.ops import box_convert

from dropkey_core.engine import UserError
from projects.detr import DetrMapper
from projects.detr.mapper import RandomSizeCrop, resized


@pytest.fixture
def record(tmp_path):
    """A black image of 90 x 120 pixels with one white rectangle, taller than wide."""
    image = np.zeros((90, 120, 3), np.uint8)
    image[20:65, 30:45] = 255
    path = str(tmp_path / "image.png")
    cv2.imwrite(path, image)
    annotation = {"bbox": [30, 20, 15, 45], "bbox_mode": 1, "category_id": 4, "iscrowd": 0}
    record = {"file_name": path, "image_id": 3, "height": 90, "width": 120}
    return {**record, "annotations": [annotation]}


def with_boxes(record, *bboxes):
    (one,) = record["annotations"]
    annotations = [{**one, "bbox": bbox, "category_id": n} for n, bbox in enumerate(bboxes)]
    return {**record, "annotations": annotations}


def white_box(image):
    """x0, y0, x1, y1 of what is more white than black; None if nothing is."""
    rows, columns = torch.nonzero(image[0] > 127, as_tuple=True)
    if not len(rows):
        return None
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return torch.stack([x0, y0, x1, y1]).float()


def pixels_xyxy(sample):
    """The sample's one box in pixels of its image."""
    height, width = sample["image"].shape[1:]
    boxes_xyxy = box_convert(sample["boxes_cxcywh"], "cxcywh", "xyxy")
    return boxes_xyxy[0] * torch.tensor([width, height, width, height])


@pytest.mark.parametrize("seed", range(40))
def test_the_box_stays_on_its_rectangle_under_every_augmentation(record, seed):
    torch.manual_seed(seed)
    mapper = DetrMapper(
        True, [60, 90, 130], max_size=150, crop_min_sizes=[70, 110], crop_range=[40, 90]
    )
    sample = mapper(record)
    seen = white_box(sample["image"])
    if len(sample["boxes_cxcywh"]):
        # One pixel before the last resize, which enlarges up to 130 / 40 times.
        torch.testing.assert_close(pixels_xyxy(sample), seen, atol=3.5, rtol=0)
    else:
        assert seen is None


def test_augmentations_of_all_kinds_occur(record):
    torch.manual_seed(0)
    mapper = DetrMapper(True, [60, 90], max_size=150, crop_min_sizes=[70], crop_range=[40, 60])
    samples = [mapper(record) for _ in range(60)]
    shapes = {tuple(sample["image"].shape[1:]) for sample in samples}
    assert {(60, 80), (90, 120)} < shapes  # not cropped, at both sizes
    boxes = [box for sample in samples for box in sample["boxes_cxcywh"]]
    assert {0.3125, 0.6875} < {float(box[0]) for box in boxes}  # as it was, mirrored


@pytest.mark.parametrize(("flipped", "x"), [(0, 0.3125), (1, 1 - 0.3125)])
def test_the_box_is_the_annotations_and_a_flip_mirrors_it(record, flipped, x):
    sample = DetrMapper(True, [90], flip_probability=flipped, crop_probability=0)(record)
    # x: (30 + 15 / 2) / 120, then (20 + 45 / 2) / 90, 15 / 120, 45 / 90
    expected = torch.tensor([[x, 42.5 / 90, 0.125, 0.5]])
    torch.testing.assert_close(sample["boxes_cxcywh"], expected)
    assert sample["labels"].tolist() == [4]
    assert sample["labels"].dtype == torch.int64
    assert sample["image"].dtype == torch.uint8
    assert type(sample["image"]) is type(sample["boxes_cxcywh"]) is torch.Tensor
    assert {k: sample[k] for k in ("file_name", "image_id", "height", "width")} == {
        k: record[k] for k in ("file_name", "image_id", "height", "width")
    }


def test_the_box_follows_a_vertical_flip(record):
    """20 of 90 pixels from the top becomes 25; as often as it is said, and never by default."""
    mapper = DetrMapper(True, [90], flip_probability=0, crop_probability=0,
                        vertical_flip_probability=1.0)  # fmt: skip
    sample = mapper(record)
    torch.testing.assert_close(pixels_xyxy(sample), torch.tensor([30.0, 25.0, 45.0, 70.0]))
    torch.testing.assert_close(white_box(sample["image"]), pixels_xyxy(sample))


def test_boxes_are_clipped_to_the_image_and_crowds_are_no_targets(record):
    mapper = DetrMapper(True, [90], flip_probability=0, crop_probability=0)
    record = with_boxes(record, [-10, -10, 20, 20], [0, 0, 5, 5], [110, 80, 50, 50], [50, 95, 9, 9])
    record["annotations"][1]["iscrowd"] = 1
    sample = mapper(record)
    assert sample["labels"].tolist() == [0, 2]
    expected = [[5 / 120, 5 / 90, 10 / 120, 10 / 90], [115 / 120, 85 / 90, 10 / 120, 10 / 90]]
    torch.testing.assert_close(sample["boxes_cxcywh"], torch.tensor(expected))


def test_an_image_without_boxes_gives_empty_targets(record):
    sample = DetrMapper(True, [60])(with_boxes(record))
    assert sample["boxes_cxcywh"].shape == (0, 4)
    assert sample["boxes_cxcywh"].dtype == torch.float32
    assert sample["labels"].shape == (0,)
    assert sample["labels"].dtype == torch.int64


def test_testing_resizes_to_the_largest_size_and_gives_no_targets(record):
    sample = DetrMapper(False, [60, 180])(record)
    assert sample["image"].shape == (3, 180, 240)
    assert (sample["height"], sample["width"]) == (90, 120)
    assert not {"boxes_cxcywh", "labels"} & sample.keys()


@pytest.mark.parametrize("training", [True, False])
def test_default_sizes_are_detrs(record, training):
    torch.manual_seed(0)
    mapper = DetrMapper(training)
    shorter = {min(mapper(record)["image"].shape[1:]) for _ in range(40)}
    # Wide crops hit the limit of the longer side; none is wider than 600 / 384 here.
    assert shorter <= (set(range(480, 801, 32)) if training else {800})
    assert len(shorter) > 5 or not training


def test_torchs_seed_governs_the_sample(record):
    mapper = DetrMapper(True, [60, 90], crop_min_sizes=[70], crop_range=[40, 60])

    def sample(seed):
        torch.manual_seed(seed)
        return mapper(record)

    once, again = sample(5), sample(5)
    assert torch.equal(once["image"], again["image"])
    assert torch.equal(once["boxes_cxcywh"], again["boxes_cxcywh"])
    assert len({sample(seed)["image"].numpy().tobytes() for seed in range(12)}) > 6


def test_settings_may_come_from_a_config(record):
    config = OmegaConf.create({"min_sizes": [60], "crop_min_sizes": [70], "crop_range": [40, 60]})
    assert min(DetrMapper(True, **config)(record)["image"].shape[1:]) == 60
    assert min(DetrMapper(False, min_sizes=config.min_sizes)(record)["image"].shape[1:]) == 60


@pytest.mark.parametrize(
    ("before", "shorter", "after"),
    [
        ((480, 640), 800, (800, 1066)),  # 800 * 640 / 480 = 1066.7
        ((640, 480), 800, (1066, 800)),
        ((500, 500), 800, (800, 800)),
        # 800 * 1000 / 300 > 1333: the shorter becomes round(1333 * 300 / 1000) = 400,
        # the longer 400 * 1000 / 300 = 1333.3
        ((1000, 300), 800, (1333, 400)),
        # round(1333 * 301 / 1000) = 401, 401 * 1000 / 301 = 1332.2
        ((301, 1000), 800, (401, 1332)),
        ((1, 5000), 800, (1, 1333)),  # a ribbon keeps one pixel
    ],
)
def test_sizes_are_rounded_as_in_detr(before, shorter, after):
    assert resized(before, shorter, 1333) == after


def test_crops_have_sides_and_places_of_their_range():
    crop = RandomSizeCrop(3, 5)
    image = torch.arange(6 * 4).reshape(1, 6, 4)
    torch.manual_seed(0)
    cut = [crop(image) for _ in range(300)]
    assert {part.shape[1] for part in cut} == {3, 4, 5}
    assert {part.shape[2] for part in cut} == {3, 4}  # the image has no more
    assert {int(part[0, 0, 0]) for part in cut} == {0, 1, 4, 5, 8, 9, 12, 13}
    assert RandomSizeCrop(9, 12)(image).shape == (1, 6, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_sizes": []}, r"sizes must be 1 pixel or more, got \[\]"),
        ({"min_sizes": [0]}, r"sizes must be 1 pixel or more, got \[0\]"),
        ({"crop_range": [9, 4]}, "crop_range must be .* got 9, 4"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetrMapper(True, **arguments)


def test_boxes_may_be_given_by_their_corners(record):
    mapper = DetrMapper(True, flip_probability=0, crop_probability=0)
    from_sides = mapper(record)
    record["annotations"][0] |= {"bbox": [30, 20, 45, 65], "bbox_mode": 0}  # XYXY_ABS
    torch.testing.assert_close(mapper(record)["boxes_cxcywh"], from_sides["boxes_cxcywh"])


@pytest.mark.parametrize("modes", [[4], [0, 1]])
def test_other_box_formats_are_refused(record, modes):
    annotation = record["annotations"][0]
    record["annotations"] = [{**annotation, "bbox_mode": mode} for mode in modes]
    with pytest.raises(ValueError, match=r"bbox_mode must be 0 .* or 1 .* got \["):
        DetrMapper(True)(record)


def test_an_image_of_another_size_than_annotated_is_refused(record):
    with pytest.raises(UserError, match=r"has 120 x 90 pixels .* are for 120 x 91"):
        DetrMapper(True)({**record, "height": 91})
