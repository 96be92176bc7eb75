"""The official METROs for the body by name; addresses and numbers from their repository."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dropkey_core.engine.checkpoint import weights_by_name
from dropkey_core.engine.published import PublishedWeights
from projects.metro.convert import metro_from_official

BASE = "https://datarelease.blob.core.windows.net/metro/models"
NOTES = (
    "since 2025 this address has answered that public access is not permitted (issue 95 of "
    "github.com/microsoft/MeshTransformer); the model needs SMPL's body with METRO's coarse "
    "meshes, see datasets/convert_body_model.py"
)


def convert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """From the official network's weights to those of ``Metro``."""
    state, _ = metro_from_official(weights_by_name(content, "the official METRO"))
    return state


def official(training: str, metric: str) -> PublishedWeights:
    """What is published of the network that was trained last on a set."""
    return PublishedWeights(
        url=f"{BASE}/metro_{training}_state_dict.bin",
        config="projects/metro/dropkey.yaml",
        overrides=("model.backbone=hrnet_w64",),
        licence="code MIT, of the weights nothing is said; SMPL: non-commercial research",
        metric=metric,
        source="scripts/download_models.sh and docs/EXP.md of github.com/microsoft/"
        "MeshTransformer; arXiv 2012.09760",
        notes=NOTES,
        convert=convert,
    )


PUBLISHED = {
    "metro-h36m": official(
        "h36m", "MPJPE 54.0, PA-MPJPE 36.7 mm on Human3.6M's validation set, protocol 2"
    ),
    "metro-3dpw": official(
        "3dpw", "MPVE 88.2, MPJPE 77.1, PA-MPJPE 47.9 mm on 3DPW's test set, fine-tuned there"
    ),
}
