import pytest
import timm
import torch

from dropkey_core.equip import apply_dropkey


@pytest.fixture(scope="module")
def vit():
    """A small ViT, equipped: a class token and 2 x 3 patches, two layers of three heads."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), depth=2, num_classes=3)
    apply_dropkey(model, 0.0)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
