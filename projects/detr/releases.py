"""Recognising official DETR weights: DC5, with stride 16, or stride 32.

Both have the same names and shapes, so that either fits the other's model. What tells them apart is
not in the weights: the published files are known by their content, and training checkpoints of the
official code hold its command line.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dropkey_core.engine.files.outside import sha256_of


class OfficialWeights(NamedTuple):
    """Whose weights a file holds.

    Attributes:
        name: of the model.
        backbone: its ResNet; empty if it is not known.
        dilation: whether its last stage is dilated, so that the feature map has stride 16.
    """

    name: str
    backbone: str
    dilation: bool


# By the beginning of the file's SHA-256, which ends its published name, as in detr-r50-e632da11.pth
# (hubconf.py of github.com/facebookresearch/detr).
RELEASES = {
    "e632da11": OfficialWeights("DETR", "resnet50", dilation=False),
    "f0fb7ef5": OfficialWeights("DETR-DC5", "resnet50", dilation=True),
    "2c7b67e5": OfficialWeights("DETR", "resnet101", dilation=False),
    "a2e86def": OfficialWeights("DETR-DC5", "resnet101", dilation=True),
}


def release_of(file: Path, content: Mapping[str, Any]) -> OfficialWeights | None:
    """Whose weights a checkpoint holds, if it is a published file or says it itself.

    Args:
        file: the checkpoint; it is read through unless its content says it.
        content: what ``read_checkpoint`` returned of it.
    """
    settings = content.get("args")  # of the official code's training
    if isinstance(settings, argparse.Namespace) and hasattr(settings, "dilation"):
        name = f"a model {'with' if settings.dilation else 'without'} dilation"
        return OfficialWeights(name, str(getattr(settings, "backbone", "")), settings.dilation)
    return RELEASES.get(sha256_of(file)[:8])


def dilation_problem(release: OfficialWeights | None, dilation: bool) -> str | None:
    """What is wrong with a release's weights for a model of this ``dilation``, and what to do."""
    if release is None or release.dilation == dilation:
        return None
    backbone = f" (model.backbone={release.backbone})" if release.backbone else ""
    return (
        f"holds weights of {release.name}, whose feature map has stride "
        f"{16 if release.dilation else 32}: set model.dilation={str(release.dilation).lower()}"
        f"{backbone}"
    )
