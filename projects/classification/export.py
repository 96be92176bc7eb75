"""Export of a classifier: inputs and outputs of the file; see ``dropkey_core.engine.export``.

A file takes ``images`` (B, 3, S, S) uint8 RGB, resized and cropped, and returns ``logits`` (B, K).
Normalising is inside, by the mean and standard deviation of the config's mapper.
"""

import torch
from torch import Tensor, nn
from torchvision.transforms import Normalize

from dropkey_core.engine.export import Exportable, random_pixels
from projects.classification.predictor import Classifier

AXES = {"images": {0: "batch"}}


class PixelsToLogits(nn.Module):
    """A network from pixels that are not normalised yet.

    Args:
        network: (B, 3, S, S) -> (B, K).
        normalise: of pixels in [0, 1].
    """

    def __init__(self, network: nn.Module, normalise: Normalize) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            values = torch.as_tensor(getattr(normalise, name), dtype=torch.float32)
            self.register_buffer(name, 255 * values[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, S, S) uint8 -> (B, K)."""
        return (self.network((images.float() - self.mean) / self.std),)


def exportable(classifier: Classifier) -> Exportable:
    """A ``Classifier`` as tensors in and tensors out."""
    steps = classifier.mapper.transform.transforms
    (normalise,) = (step for step in steps if isinstance(step, Normalize))
    size = classifier.model.image_size
    module = PixelsToLogits(classifier.model.network, normalise).eval()
    return Exportable(module, ("logits",), AXES, random_pixels, (size, size), any_size=False)
