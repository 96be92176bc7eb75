"""Model loader of all projects: the predictor class is told by the name or the weights."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dropkey_core.engine import UserError
from dropkey_core.engine.inference import find_trained
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


def load_predictor(
    source: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    **options: Any,
) -> Predictor[Any]:
    """Load a trained model; for arguments and errors see ``Predictor.from_pretrained``."""
    if config is None and is_hugging_face(source):
        trained = Detector.find(source, device=device)
    else:
        trained = find_trained(source, PUBLISHED, config, overrides, device)
    kind = next((kind for kind in PREDICTORS if kind.recognises(trained)), None)
    if kind is None:
        kinds = ", ".join(kind.kind for kind in PREDICTORS)
        raise UserError(f"{source} is of none of the models that are known here: {kinds}")
    for name in options:
        if name not in inspect.signature(kind.from_trained).parameters:
            raise UserError(f"{name} is not for {kind.kind}")
    return kind.from_trained(trained, **options)
