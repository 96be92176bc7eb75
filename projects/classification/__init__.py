"""Image classification with DropKey: T2T-ViT, VOLO and vision transformers."""

from projects.classification.build import build_model
from projects.classification.evaluation import ClassificationEvaluator
from projects.classification.mapper import ClassificationMapper
from projects.classification.packed import load_packed

__all__ = ["ClassificationEvaluator", "ClassificationMapper", "build_model", "load_packed"]
