"""The official DETR (facebookresearch/detr) of a user's checkout, behind our interface."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torchvision
from torch import Tensor, nn

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.optim import param_groups
from projects.detr.detr import Detr


def import_from(checkout: str, module: str) -> ModuleType:
    """Import one of the official modules: ``main``, ``models``, ``datasets.coco``, ..."""
    folder = Path(checkout).expanduser().absolute()
    if not (folder / "models/detr.py").is_file():
        raise UserError(f"{checkout} is no checkout of facebookresearch/detr: no models/detr.py")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(module)


class OfficialDetr(nn.Module):
    """The official model and criterion behind our ``forward(list[dict])``.

    Args:
        checkout: folder of the official repository.
        like: our model; its weights are taken over, so its sizes must be the official defaults.

    Raises:
        UserError: if there is no checkout, or the sizes differ.
    """

    def __init__(self, checkout: str, like: Detr) -> None:
        super().__init__()
        arguments = import_from(checkout, "main").get_args_parser().parse_args([])
        arguments.device = "cpu"
        with mock.patch.object(torchvision.models, arguments.backbone, unpretrained_resnet50):
            self.model, self.criterion, self.postprocessors = import_from(
                checkout, "models"
            ).build_model(arguments)
        self.nested_tensor = import_from(checkout, "util.misc").NestedTensor
        try:
            self.model.load_state_dict(like.state_dict())
        except RuntimeError as error:
            raise UserError(
                "the official DETR has its default sizes here: benchmark it against a ResNet-50 "
                "with 91 classes"
            ) from error
        self.batch = like.batch

    def forward(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """As ``Detr.forward``: weighted losses in training, else detections."""
        images, padding_mask = self.batch(samples)
        if padding_mask is None:
            padding_mask = torch.zeros_like(images[:, 0], dtype=torch.bool)
        # Its own loader makes contiguous images.
        outputs = self.model(self.nested_tensor(images.contiguous(), padding_mask))
        if not self.training:
            sizes = torch.tensor([(s["height"], s["width"]) for s in samples])
            return self.postprocessors["bbox"](outputs, sizes.to(images.device))
        targets = [
            {"labels": s["labels"].to(images.device), "boxes": s["boxes_cxcywh"].to(images.device)}
            for s in samples
        ]
        weights = self.criterion.weight_dict
        losses = self.criterion(outputs, targets)
        return {name: weights[name] * loss for name, loss in losses.items() if name in weights}


class OfficialOptimizer(torch.optim.AdamW):
    """The official recipe's optimizer and gradient clipping, as its training loop runs them."""

    def __init__(self, model: nn.Module) -> None:
        groups = param_groups(model, 1e-4, {"backbone": 0.1})
        super().__init__(groups, lr=1e-4, weight_decay=1e-4)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Clip the total norm to 0.1, then update."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 0.1)
        return super().step(closure)


def unpretrained_resnet50(pretrained: bool = False, **settings: Any) -> nn.Module:
    """torchvision's ResNet-50 with random weights, whatever the caller asks for."""
    return torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], **settings
    )


def official_preparation(checkout: str) -> Callable[[dict[str, Any]], Tensor]:
    """The official path from a record (see ``load_coco``) to a normalised training image."""
    from PIL import Image

    transforms = import_from(checkout, "datasets.coco").make_coco_transforms("train")

    def prepare(record: dict[str, Any]) -> Tensor:
        image = Image.open(record["file_name"]).convert("RGB")
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 4).float()
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": boxes,
            "labels": torch.tensor([a["category_id"] for a in record["annotations"]]),
            "area": boxes[:, 2] * boxes[:, 3],
            "iscrowd": torch.zeros(len(boxes)),
        }
        return transforms(image, target)[0]

    return prepare
