import pytest
from timm.models.vision_transformer import VisionTransformer
from timm.models.volo import VOLO

from dropkey_core import apply_dropkey


@pytest.fixture
def make_vit():
    """Make a tiny ViT, equipped: 4 x 4 patches and a class token, width 8."""

    def make(drop_ratio=0.0, unit="key", **options):
        sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 8, "depth": 3, "num_heads": 2}
        vit = VisionTransformer(num_classes=3, **{**sizes, **options})
        apply_dropkey(vit, drop_ratio, unit=unit)
        return vit

    return make


@pytest.fixture
def volo():
    """A tiny VOLO, equipped: an outlook block, two of self-attention, one of class attention."""
    sizes = {"embed_dims": [8, 16, 16, 16], "num_heads": [2, 2, 2, 2], "stem_hidden_dim": 4}
    network = VOLO([1, 1, 1, 0], img_size=32, num_classes=3, post_layers=("ca",), **sizes)
    apply_dropkey(network, 0.0)
    return network
