"""Model loader of all projects: the predictor class is told by the name or the weights."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dropkey_core.engine import UserError
from dropkey_core.engine.files.inputs import is_address
from dropkey_core.engine.inference import Trained, find_trained
from dropkey_core.engine.predictor import Predictor
from projects.classification.predictor import Classifier
from projects.detr.predictor import Detector, is_hugging_face
from projects.metro.predictor import BodyEstimator
from projects.qpic.predictor import InteractionDetector

PREDICTORS: tuple[type[Predictor[Any]], ...] = (
    Detector,
    InteractionDetector,
    BodyEstimator,
    Classifier,
)
PUBLISHED = {name: weights for kind in PREDICTORS for name, weights in kind.published.items()}


def take_overrides(arguments: argparse.Namespace, *names: str) -> None:
    """Move each ``key=value`` that is no file or address from lists of words to the overrides."""
    for name in names:
        words = getattr(arguments, name) or ()
        found = [
            word
            for word in words
            if "=" in word and not is_address(word) and not Path(word).exists()
        ]
        arguments.overrides += found
        if found:
            setattr(arguments, name, [word for word in words if word not in found])


def find_model(
    source: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> Trained:
    """Find a trained model; for arguments and errors see ``Predictor.from_pretrained``."""
    if config is None and is_hugging_face(source):
        return Detector.find(source, device=device)
    return find_trained(source, PUBLISHED, config, overrides, device)


def build_predictor(trained: Trained, **options: Any) -> Predictor[Any]:
    """Build the predictor that a model's weights are of, with options of its ``from_trained``."""
    kind = next((kind for kind in PREDICTORS if kind.recognises(trained)), None)
    if kind is None:
        kinds = ", ".join(kind.kind for kind in PREDICTORS)
        raise UserError(f"{trained.source} is of none of the models known here: {kinds}")
    for name in options:
        if name not in inspect.signature(kind.from_trained).parameters:
            raise UserError(f"{name} is not for {kind.kind}")
    return kind.from_trained(trained, **options)


def load_predictor(
    source: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    **options: Any,
) -> Predictor[Any]:
    """Load a trained model; for arguments and errors see ``Predictor.from_pretrained``."""
    return build_predictor(find_model(source, config, overrides, device), **options)
