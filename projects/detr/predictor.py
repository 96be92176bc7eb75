"""Detection with a trained DETR: from image files or dataset dicts to boxes, labels, scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from dropkey_core.engine import dataset_path, instantiate
from dropkey_core.engine.inference import load_trained, read_model_weights
from projects.detr.coco import read_categories
from projects.detr.detr import Detr
from projects.detr.mapper import DetrMapper


@dataclass(frozen=True)
class Detector:
    """A trained DETR in eval mode with all that it takes to use it.

    Attributes:
        model: the network.
        mapper: from a dataset dict to the network's sample.
        names: of the classes, by index.
    """

    model: Detr
    mapper: DetrMapper
    names: Sequence[str]

    @classmethod
    def load(cls, config: DictConfig, weights: str) -> "Detector":
        """Build the config's model with as many classes as the checkpoint has, and load that.

        So an official checkpoint works where no dataset is, which the config would ask instead.

        Raises:
            UserError: the checkpoint cannot be read or is of another model.
        """
        key = "class_embed.weight"
        content = read_model_weights(weights, "DETR", key)
        num_classes = len(content.get("model", content)[key]) - 1  # one row is "no object"
        model = load_trained(config, weights, content, {"num_classes": num_classes})
        mapper = instantiate(config.dataloader.test.mapper, "dataloader.test.mapper")
        annotations = OmegaConf.select(config, "dataset.test.annotations")
        return cls(model, mapper, class_names(num_classes, annotations))

    @torch.no_grad()
    def predict(self, record: str | dict[str, Any]) -> dict[str, Any]:
        """Detect objects on an image, a file or a dataset dict.

        Returns:
            what ``detections`` does for an image, and ``names``, of the class of each.
        """
        sample = self.mapper({"file_name": record} if isinstance(record, str) else record)
        detections: dict[str, Tensor] = self.model([sample])[0]
        return {**detections, "names": [self.names[label] for label in detections["labels"]]}


def class_names(num_classes: int, annotations: str | None) -> list[str]:
    """Names by class index: the annotation file's if it is there and fits, COCO's, or numbers."""
    if annotations is not None and dataset_path(annotations).is_file():
        names = read_categories(annotations).class_names
        if len(names) == num_classes:
            return names
    if num_classes == 91:
        return FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [f"class {index}" for index in range(num_classes)]
