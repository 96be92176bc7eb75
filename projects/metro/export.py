"""Export of METRO: inputs and outputs of the file; see ``dropkey_core.engine.export``.

A file takes ``images`` (B, 3, S, S) uint8 RGB, squares around one person each, and returns
``vertices`` (B, V, 3) and ``joints_3d`` (B, 14, 3) in metres and ``camera`` (B, 3), as ``Metro``.
"""

from torch import Tensor, nn

from dropkey_core.engine.export import Exportable, random_pixels
from projects.metro.metro import Metro
from projects.metro.predictor import BodyEstimator

AXES = {"images": {0: "batch"}}


class PixelsToMesh(nn.Module):
    """``Metro`` from pixels that are not normalised yet."""

    def __init__(self, model: Metro) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) uint8 -> vertices, joints and camera."""
        model = self.model
        outputs = model.predict_batch((images.float() - model.pixel_mean) / model.pixel_std)
        return outputs["meshes"][0], outputs["mesh_joints"], outputs["camera"]


def exportable(estimator: BodyEstimator) -> Exportable:
    """A ``BodyEstimator`` as tensors in and tensors out."""
    size = estimator.model.image_size
    outputs = ("vertices", "joints_3d", "camera")
    module = PixelsToMesh(estimator.model).eval()
    return Exportable(module, outputs, AXES, random_pixels, (size, size), any_size=False)
