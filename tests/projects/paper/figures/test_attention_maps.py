import torch

from projects.classification import ClassificationMapper
from projects.paper.figures.attention_maps import shown


def test_an_image_is_shown_as_it_was_before_it_was_normalised():
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    mapper = ClassificationMapper(training=False, image_size=8, crop_pct=1.0)
    sample = mapper({"image": image, "label": 0, "image_id": 0})
    assert (shown(sample["image"], mapper) == image.permute(1, 2, 0).numpy()).all()


def test_without_a_known_mapper_from_black_to_white():
    pixels = shown(torch.tensor([-1.0, 0.0, 3.0]).reshape(3, 1, 1), None)
    assert pixels.tolist() == [[[0, 64, 255]]]
