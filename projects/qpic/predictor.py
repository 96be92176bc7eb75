"""Interaction detection with a trained QPIC: from images to pairs of boxes, objects and verbs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dropkey_core.engine import dataset_path, instantiate
from dropkey_core.engine.inference import load_trained, read_model_weights
from projects.qpic.classes import OBJECT_NAMES, VERB_NAMES, read_classes
from projects.qpic.mapper import QpicMapper
from projects.qpic.qpic import Qpic

Names = Sequence[str]  # by class index


@dataclass(frozen=True)
class InteractionDetector:
    """A trained QPIC in eval mode with all that it takes to use it.

    Attributes:
        model: the network.
        mapper: from a dataset dict to the network's sample.
        object_names: by class index, as ``verb_names``.
    """

    model: Qpic
    mapper: QpicMapper
    object_names: Names
    verb_names: Names

    @classmethod
    def load(cls, config: DictConfig, weights: str) -> "InteractionDetector":
        """Build the config's model with as many classes as the checkpoint has, and load that.

        So an official checkpoint works where no dataset is, which the config would ask instead.

        Raises:
            UserError: the checkpoint cannot be read or is of another model.
        """
        content = read_model_weights(weights, "QPIC", "verb_class_embed.weight")
        state = content.get("model", content)
        numbers = {
            "num_object_classes": len(state["obj_class_embed.weight"]) - 1,  # one is "no object"
            "num_verb_classes": len(state["verb_class_embed.weight"]),
        }
        model = load_trained(config, weights, content, numbers)
        mapper = instantiate(config.dataloader.test.mapper, "dataloader.test.mapper")
        classes = OmegaConf.select(config, "dataset.classes")
        return cls(model, mapper, *class_names(classes, *numbers.values()))

    @torch.no_grad()
    def predict(self, record: str | dict[str, Any]) -> dict[str, Tensor]:
        """Find interactions on an image, a file or a dataset dict; see ``interactions``."""
        sample = self.mapper({"file_name": record} if isinstance(record, str) else record)
        return self.model([sample])[0]


def class_names(classes: str | None, num_objects: int, num_verbs: int) -> tuple[Names, Names]:
    """Names of objects and verbs: the dataset's if it is there and fits, HICO-DET's, or numbers."""
    if classes is not None and dataset_path(classes).is_file():
        known = read_classes(classes)
        if (len(known.object_names), len(known.verb_names)) == (num_objects, num_verbs):
            return known.object_names, known.verb_names
    if (num_objects, num_verbs) == (len(OBJECT_NAMES), len(VERB_NAMES)):
        return OBJECT_NAMES, VERB_NAMES
    return [f"object {n}" for n in range(num_objects)], [f"verb {n}" for n in range(num_verbs)]
