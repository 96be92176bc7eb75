"""Image classification with DropKey: T2T-ViT, VOLO and vision transformers."""

from projects.classification.build import build_model

__all__ = ["build_model"]
