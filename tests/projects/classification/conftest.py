import pytest
import torch

from projects.classification import build_model

# A T2T-ViT for 8-pixel images: 16 patches, two blocks.
TINY = {
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "splits": [[3, 1, 1], [3, 2, 1], [3, 1, 1]],
    "token_dim": 8,
}


@pytest.fixture
def tiny():
    """Builds a small classifier of 4 classes; settings of the builder, and other sizes."""

    def build(sizes=None, **settings):
        torch.manual_seed(0)
        options = {**TINY, **(sizes or {})}
        defaults = {"architecture": "t2t_vit_14", "num_classes": 4, "image_size": 8}
        return build_model(**{**defaults, "architecture_options": options, **settings})

    return build


@pytest.fixture
def samples():
    """Four images of 8 pixels, of classes 0, 1, 1 and 3."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 8, 8, generator=generator)
    return [{"image": image, "label": i} for image, i in zip(images, (0, 1, 1, 3), strict=True)]
