"""Image classification with DropKey: T2T-ViT, VOLO and vision transformers."""

from projects.classification.build import build_model
from projects.classification.cifar import load_cifar
from projects.classification.digits import load_digits
from projects.classification.evaluation import ClassificationEvaluator
from projects.classification.image_folder import load_image_folder
from projects.classification.mapper import ClassificationMapper
from projects.classification.packed import load_packed
from projects.classification.predictor import Classifier

__all__ = [
    "ClassificationEvaluator",
    "ClassificationMapper",
    "Classifier",
    "build_model",
    "load_cifar",
    "load_digits",
    "load_image_folder",
    "load_packed",
]
