from itertools import islice

import pytest
import torch
from timm.data import create_transform
from torch.testing import assert_close
from torchvision.transforms.functional import to_pil_image

from dropkey_core.engine import UserError, build_train_loader
from dropkey_core.engine.data import sample_randomness, start_at
from projects.classification import ClassificationMapper
from tests.projects.classification.image_files import noise

RECIPE = {"training": True, "rand_augment_ops": 2, "erasing_probability": 0.25}
PLAIN = {"flip_probability": 0.0, "mean": [0.0] * 3, "std": [1 / 255] * 3}  # samples are pixels


def sample(image, seed=0, **settings):
    """The sample's image, drawn with a seed."""
    with sample_randomness(seed):
        made = ClassificationMapper(**settings)({"image": image, "label": 1, "image_id": 2})
    return made["image"]


def test_normalised_by_hand():
    image = noise(0, (8, 8))
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    mapper = ClassificationMapper(training=False, image_size=8, crop_pct=1.0, mean=mean, std=std)
    made = mapper({"image": image, "label": 1, "image_id": 2, "secret": 3})
    assert made.keys() == {"image", "label", "image_id"}
    assert (made["label"], made["image_id"]) == (1, 2)
    for channel in range(3):
        by_hand = (image[channel] / 255 - mean[channel]) / std[channel]
        assert_close(made["image"][channel], by_hand, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("crop_pct", [0.9, 1.15])
@pytest.mark.parametrize("size", [(40, 60), (61, 33), (20, 20)])
def test_testing_is_timms(size, crop_pct):
    image = noise(1, size)
    colours = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    theirs = create_transform(32, crop_pct=crop_pct, interpolation="bicubic", **colours)
    ours = sample(image, training=False, image_size=32, crop_pct=crop_pct, **colours)
    assert torch.equal(ours, theirs(to_pil_image(image)))
    framed = bool((ours[:, 0, 0] == -2).all())  # the corner is black
    assert framed == (crop_pct > 1)


@pytest.mark.parametrize("interpolation", ["bicubic", "random"], ids=["DeiT", "T2T-ViT, VOLO"])
def test_training_is_that_of_the_official_recipes(interpolation):
    """The arguments of their scripts, whose colour jitter RandAugment switches off.

    Their strongest posterising, to 0 bits, is the one thing left out.
    """
    theirs = create_transform(
        input_size=32,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation=interpolation,
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    for operation in theirs.transforms[2].ops:
        operation.magnitude_max = 9.99
    image = noise(1, (60, 50))
    for seed in range(30):
        with sample_randomness(seed):
            expected = theirs(to_pil_image(image))
        ours = sample(image, seed, image_size=32, interpolation=interpolation, **RECIPE)
        assert torch.equal(ours, expected)


def test_a_padded_crop_is_a_shift():
    image = noise(2, (8, 8)).clamp(min=1)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2)).float()
    shifts = [padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    settings = {"training": True, "image_size": 8, "crop": "padded", "padding": 2, **PLAIN}
    found = set()
    for seed in range(100):
        made = sample(image, seed, **settings)
        errors = torch.stack([(made - shift).abs().max() for shift in shifts])
        assert errors.min() < 1e-3
        found.add(int(errors.argmin()))
    assert len(found) > 20


def test_strongest_operations_leave_something_of_the_image():
    image = noise(6, (8, 8))
    settings = {"training": True, "image_size": 8, "rand_augment_magnitude": 10, **PLAIN}
    assert all(sample(image, seed, rand_augment_ops=2, **settings).any() for seed in range(200))


def read(num_workers, first_step=0, steps=4):
    """Batches of ten noisy images under a whole recipe, each stacked."""
    records = [{"image": noise(i, (24, 20)), "label": 0, "image_id": i} for i in range(10)]
    mapper = ClassificationMapper(image_size=16, interpolation="random", **RECIPE)
    loader = build_train_loader(records, mapper, 8, num_workers, seed=3)
    assert start_at(loader, first_step)
    batches = [torch.stack([one["image"] for one in batch]) for batch in islice(loader, steps)]
    return torch.stack(batches)


def test_augmentation_depends_on_the_place_in_the_stream_alone():
    """Neither on the loader's processes, nor on where a run goes on, to the last bit."""
    whole = read(num_workers=0)
    assert whole.dtype == torch.float32
    assert not torch.equal(whole[0], whole[1])
    assert torch.equal(read(num_workers=2), whole)
    assert torch.equal(read(num_workers=1, first_step=2, steps=2), whole[2:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "random"}, "crop must be one of resized, padded; got 'random'"),
        ({"interpolation": "cubic"}, "interpolation must be one of bicubic, bilinear, random; got"),
        ({"interpolation": "random", "crop": "padded"}, "be one of bicubic, bilinear; got 'random"),
        ({"crop_pct": 2.5}, "crop_pct must be from 0.01 to 2, got 2.5"),
        ({"rand_augment_magnitude": 15}, "rand_augment_magnitude must be from 0 to 10, got 15"),
        ({"erasing_probability": 2.0}, "erasing_probability must be from 0 to 1"),
        ({"flip_probability": 2.0}, "flip_probability must be from 0 to 1"),
        ({"std": [1.0, 1.0, 0.0]}, "std above 0"),
        ({"mean": [0.5]}, "three numbers"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        ClassificationMapper(training=True, **settings)
