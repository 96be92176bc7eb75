"""Classification with a trained network: from any pictures to classes with scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.models import ResNet50_Weights

from dropkey_core.engine import UserError, instantiate
from dropkey_core.engine.files.inputs import Input
from dropkey_core.engine.files.json_file import Text
from dropkey_core.engine.inference import Trained
from dropkey_core.engine.predictor import Predictor, Result, warn_of_numbers
from projects.classification.classifier import ClassificationModel
from projects.classification.mapper import ClassificationMapper
from projects.classification.published import PUBLISHED
from projects.page import Panel, PictureRow, draw_page

SIDE = 640  # pixels of the longer side of a picture as it is drawn


@dataclass(frozen=True, eq=False, repr=False)
class Classification(Result):
    """The surest classes of a picture, the surest first.

    Attributes:
        scores: (k,) float32, of a softmax over all classes.
        labels: (k,) int64, class indices.
        names: of the classes, k of them.
    """

    scores: Tensor
    labels: Tensor
    names: list[str]

    def draw(self) -> Image.Image:
        """The picture with names and scores above it."""
        height, width = self.image.shape[1:]
        size = [max(1, round(side * SIDE / max(height, width))) for side in (width, height)]
        pixels = Image.fromarray(self.image.permute(1, 2, 0).contiguous().numpy()).resize(size)
        rows = zip(self.names, self.scores.tolist(), strict=True)
        caption = "\n".join(f"{name} {score:.2f}" for name, score in rows)
        return draw_page([PictureRow([Panel(caption, np.asarray(pixels))])], least_width=0)


@dataclass(frozen=True, repr=False)
class Classifier(Predictor[Classification]):
    """A trained network in eval mode with all that it takes to use it.

    Attributes:
        model: the network with its losses.
        mapper: from a record to the network's sample.
        names: of the classes, by index.
    """

    kind = "a classifier"
    key = "network."  # how the name of each tensor begins
    published = PUBLISHED
    results_file = "classes.json"
    things = "classes"

    model: ClassificationModel
    mapper: ClassificationMapper
    names: Sequence[str]

    @classmethod
    def recognises(cls, trained: Trained) -> bool:
        """Whether weights are of this kind of model."""
        return any(name.startswith(cls.key) for name in trained.state)

    @classmethod
    def from_trained(cls, trained: Trained) -> "Classifier":
        """Build the config's model and load its weights.

        Raises:
            UserError: the checkpoint is of another model.
        """
        if not cls.recognises(trained):
            raise UserError(
                f"{trained.source} is no checkpoint of {cls.kind}: no tensor's name begins with "
                f"{cls.key}; official ones come from tools/convert_checkpoint.py"
            )
        model = trained.build()
        mapper = instantiate(trained.config.dataloader.test.mapper, "dataloader.test.mapper")
        names = trained.classes(list[Text]) or ()
        if len(names) != model.num_classes:
            names = class_names(model.num_classes, trained.config)
        return cls(model, mapper, names)

    def predict(self, inputs: Sequence[Input], top: int = 5) -> list[Classification]:
        """Classify a batch of pictures.

        Args:
            inputs: the pictures.
            top: so many classes are given, or all if there are fewer.
        """
        if top < 1:
            raise UserError(f"top must be at least 1, got {top}")
        found = self.model([self.mapper(vars(each)) for each in inputs])
        results = []
        for each, outputs in zip(inputs, found, strict=True):
            probability = outputs["logits"].softmax(0).cpu()
            scores, labels = probability.topk(min(top, len(probability)))
            names = [self.names[label] for label in labels.tolist()]
            results.append(Classification(each.image, each.file_name, scores, labels, names))
        return results


def class_names(num_classes: int, config: DictConfig) -> list[str]:
    """Names by class index: those of the data if it is there, ImageNet's for 1,000, or numbers."""
    section: Any = OmegaConf.select(config, "dataloader.test.dataset")
    try:
        classes = [] if section is None else instantiate(section, "dataloader.test.dataset").classes
    except (UserError, AttributeError):  # the data is not here, or has no names
        classes = []
    if len(classes) == num_classes:
        return list(classes)
    if num_classes == 1000:
        return ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    warn_of_numbers(None, "class 0, class 1, ...")
    return [f"class {index}" for index in range(num_classes)]
