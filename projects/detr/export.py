"""Export of DETR and QPIC: inputs and outputs of the file; see ``dropkey_core.engine.export``.

A file takes ``images`` (B, 3, H, W) uint8 RGB, padded at the right and bottom to one size, and
``padding_mask`` (B, H, W) bool, True = padding, and returns what the last decoder layer says, by
the official names. Normalising is inside, resizing is not: as ``DetrMapper`` does it, the shorter
side to 800 pixels and the longer to 1333 at most. Images of a model with a ``canvas`` are padded to
at least that many pixels on both sides.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.engine.export import Exportable, Inputs, random_pixels
from projects.detr.detr import DetrBody
from projects.detr.predictor import Detector

SIZE = (480, 640)
AXES = {
    "images": {0: "batch", 2: "height", 3: "width"},
    "padding_mask": {0: "batch", 1: "height", 2: "width"},
}


class LastLayer(nn.Module):
    """From pixels to what the last decoder layer says.

    Args:
        model: has ``predict_batch``.
        outputs: of its outputs these.
    """

    def __init__(self, model: DetrBody, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) uint8 and (B, H, W) bool -> (B, Q, ...) each."""
        mean, std = (x[:, None, None] for x in (self.model.pixel_mean, self.model.pixel_std))
        pixels = ((images.float() - mean) / std).masked_fill(padding_mask[:, None], 0.0)
        model: Any = self.model
        outputs = model.predict_batch(pixels, padding_mask)
        return tuple(outputs[name][-1] for name in self.outputs)


def random_inputs(batch: int, height: int, width: int) -> Inputs:
    """Random pixels, each image a little smaller than the one before it."""
    padding_mask = torch.zeros(batch, height, width, dtype=torch.bool)
    for index, own in enumerate(padding_mask):
        own[height - height * index // 8 :] = True
        own[:, width - width * index // 6 :] = True
    return {**random_pixels(batch, height, width), "padding_mask": padding_mask}


def exportable_body(model: DetrBody, outputs: tuple[str, ...]) -> Exportable:
    """A model with ``predict_batch``, of whose outputs these are exported."""
    module = LastLayer(model, outputs).eval()
    canvas = model.canvas
    size = max(SIZE[0], canvas), max(SIZE[1], canvas)
    return Exportable(module, outputs, AXES, random_inputs, size, any_size=True, canvas=canvas)


def exportable(detector: Detector) -> Exportable:
    """A ``Detector`` as tensors in and tensors out.

    ``pred_logits`` (B, Q, C + 1), the last logit "no object" (after a softmax; of a focal model
    each has a sigmoid of its own), and ``pred_boxes`` (B, Q, 4), cxcywh in [0, 1] of the image
    without its padding.
    """
    return exportable_body(detector.model, ("pred_logits", "pred_boxes"))
