"""The official DETRs by name; addresses, hashes and numbers from their repository."""

from dropkey_core.engine.published import PublishedWeights
from projects.detr.releases import RELEASES

BASE = "https://dl.fbaipublicfiles.com/detr"
SOURCE = "README and hubconf.py of github.com/facebookresearch/detr; arXiv 2005.12872"
# Name: what its file's name ends with, which is how its SHA-256 begins; AP.
NUMBERS = {
    "detr-r50": ("e632da11", "42.0"),
    "detr-r101": ("2c7b67e5", "43.5"),
    "detr-r50-dc5": ("f0fb7ef5", "43.3"),
    "detr-r101-dc5": ("a2e86def", "44.9"),
}


def official(name: str) -> PublishedWeights:
    """What is published of one of ``NUMBERS``."""
    sha256, precision = NUMBERS[name]
    release = RELEASES[sha256]
    backbone, dilation = f"model.backbone={release.backbone}", "model.dilation=true"
    return PublishedWeights(
        url=f"{BASE}/{name}-{sha256}.pth",
        sha256=sha256,
        config="projects/detr/dropkey.yaml",
        overrides=(backbone, dilation) if release.dilation else (backbone,),
        licence="Apache-2.0",
        metric=f"box AP {precision} on COCO val2017",
        source=SOURCE,
    )


PUBLISHED = {name: official(name) for name in NUMBERS}
