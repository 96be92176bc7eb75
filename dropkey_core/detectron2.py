"""The bridge to detectron2's world: its ``Instances``, and its yacs configs.

Imported only on request, since it needs detectron2. Two things need no bridge: a config of ours in
detectron2's ``lazyconfig_train_net.py``, and ``apply_dropkey`` on detectron2's own models.

Shapes: Q predictions and t true objects of an image.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.engine.errors import UserError

try:
    from detectron2.config import CfgNode
    from detectron2.modeling import META_ARCH_REGISTRY
    from detectron2.structures import Boxes, Instances
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "detectron2":
        raise  # it is there, and lacks something itself
    raise ImportError(
        "this needs detectron2, which is installed from its own site: "
        "https://detectron2.readthedocs.io/tutorials/install.html, with setuptools<82 if its model "
        "zoo is wanted"
    ) from error

__all__ = [
    "META_ARCH_REGISTRY",
    "CfgNode",
    "Instances",
    "arguments_node",
    "arguments_of",
    "to_instances",
    "with_instances",
]

PREDICTED = ("scores", "labels", "boxes_xyxy")


def with_instances(model: nn.Module, class_indices: Sequence[int] | None = None) -> nn.Module:
    """Let a detection model of ours take what detectron2's models take and return what they return.

    In place, by hooks: parameters keep their names, so a checkpoint fits with and without. After it

    * samples may be detectron2's: ``instances`` with ``gt_boxes`` and ``gt_classes`` in the place
      of ``boxes_cxcywh`` and ``labels``; ``height`` and ``width`` are those of ``image`` where they
      are missing. Images are RGB: ``INPUT.FORMAT = "RGB"`` or ``image_format="RGB"``;
    * predictions are ``[{"instances": Instances}]``: ``pred_boxes`` in pixels of the original
      image, not clipped to it, ``scores`` and ``pred_classes``, one of each for every query;
    * classes are detectron2's, 0, 1, ... without gaps, in the samples of our mapper too.

    Args:
        model: its ``forward`` takes samples with ``image`` and in training ``boxes_cxcywh`` and
            ``labels``, and returns in evaluation ``scores``, ``labels`` and ``boxes_xyxy`` of each.
        class_indices: the model's class index of each class of detectron2, in order; what the model
            finds of further classes is left out. None: they are the same.

    Returns:
        ``model``
    """
    classes = Classes(class_indices)
    model.register_forward_pre_hook(partial(_translate_samples, classes=classes))
    model.register_forward_hook(partial(_translate_outputs, classes=classes))
    return model


def _translate_samples(model: nn.Module, arguments: tuple[Any, ...], *, classes: "Classes") -> Any:
    (samples,) = arguments
    return ([our_sample(sample, classes) for sample in samples],)


def _translate_outputs(
    model: nn.Module, arguments: tuple[Any, ...], outputs: Any, *, classes: "Classes"
) -> Any:
    if model.training:
        return outputs  # losses
    (samples,) = arguments
    return [
        {"instances": to_instances(output, (sample["height"], sample["width"]), classes)}
        for sample, output in zip(samples, outputs, strict=True)
    ]


class Classes:
    """Class indices of a model against detectron2's, which have no gaps.

    Args:
        of_model: the model's class index of each class of detectron2; None: they are the same.
    """

    def __init__(self, of_model: Sequence[int] | None) -> None:
        self.of_model = None if of_model is None else torch.tensor(list(of_model))

    def to_model(self, classes: Tensor) -> Tensor:
        """The model's indices of detectron2's classes (t,).

        Raises:
            UserError: a class that is not among them.
        """
        if self.of_model is None:
            return classes
        known = len(self.of_model)
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < known:
            raise UserError(
                f"classes must be detectron2's, 0 to {known - 1} without gaps, got "
                f"{int(classes.max())}: take the records from DatasetCatalog; if the data has more "
                "classes, the model's num_classes must be another"
            )
        return self.of_model.to(classes.device)[classes]

    def from_model(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the model's labels (Q,) detectron2 has, (Q,) bool, and its classes of those."""
        if self.of_model is None:
            return torch.ones_like(labels, dtype=torch.bool), labels
        matches = labels[:, None] == self.of_model.to(labels.device)  # (Q, classes)
        kept = matches.any(1)
        return kept, matches[kept].int().argmax(1)


def our_sample(sample: dict[str, Any], classes: Classes) -> dict[str, Any]:
    """A sample as models of ours take it, of detectron2's mapper or of ours, which stays as it is.

    Args:
        sample: ``image`` (3, h, w) and, in training, ``instances`` with ``gt_boxes`` in its pixels.
        classes: how its classes are numbered.
    """
    height, width = sample["image"].shape[-2:]
    ours = {"height": height, "width": width, **sample}
    if "instances" in sample:
        true = sample["instances"]
        boxes_xyxy = true.gt_boxes.tensor.float()
        low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
        scale = boxes_xyxy.new_tensor([width, height, width, height])
        ours["boxes_cxcywh"] = torch.cat([(low + high) / 2, high - low], 1) / scale
        ours["labels"] = true.gt_classes
    if "labels" in ours:
        ours["labels"] = classes.to_model(ours["labels"])
    return ours


def to_instances(
    output: dict[str, Tensor], image_size: tuple[int, int], classes: Classes | None = None
) -> Instances:
    """The predictions for one image as detectron2's ``Instances``.

    Args:
        output: ``scores`` (Q,), ``labels`` (Q,) and ``boxes_xyxy`` (Q, 4) in pixels.
        image_size: (height, width) of the original image, in pixels.
        classes: how the labels are numbered; default: like detectron2's.

    Raises:
        UserError: predictions that are no boxes.
    """
    if missing := [name for name in PREDICTED if name not in output]:
        raise UserError(
            f"Instances are made of {', '.join(PREDICTED)} of each image; this model returns "
            f"{', '.join(output)}, not {', '.join(missing)}"
        )
    kept, predicted = (classes or Classes(None)).from_model(output["labels"])
    return Instances(
        image_size,
        pred_boxes=Boxes(output["boxes_xyxy"][kept]),
        scores=output["scores"][kept],
        pred_classes=predicted,
    )


def arguments_node(build: Callable[..., Any]) -> CfgNode:
    """The arguments of a builder and their defaults as a node of yacs, names in capitals."""
    parameters = inspect.signature(build).parameters.values()
    return CfgNode({parameter.name.upper(): parameter.default for parameter in parameters})


def arguments_of(node: CfgNode) -> dict[str, Any]:
    """What ``arguments_node`` made and a config has changed, as arguments for the builder."""
    return {name.lower(): value for name, value in node.items()}
