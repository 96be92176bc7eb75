"""METRO (arXiv 2012.09760): a body's mesh from one image, a token for every joint and vertex.

Shapes: B images of S x S pixels, L cells of the feature map, C its channels, J = 14 joints, V
vertices of the full mesh, V1 and V2 of the coarser ones, N = J + V2 tokens. Lengths are metres.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.engine import UserError, in_float32
from projects.metro.backbone import Backbone
from projects.metro.body.interpolation import interpolation_weights
from projects.metro.body.model import Body
from projects.metro.body.skeleton import H36M_PELVIS, JOINTS, JOINTS_FROM_H36M
from projects.metro.encoder import EncoderBlock
from projects.metro.losses import MeshLoss
from projects.metro.masking import TokenMasking

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAMERA_DIM = 250  # hidden width of the camera head
TARGETS = ("vertices", "joints_3d", "joints_2d", "has_mesh", "has_joints_3d")


class CameraHead(nn.Module):
    """A weak-perspective camera from the coarsest mesh, by three linear maps without activation.

    Args:
        num_vertices: V2.
    """

    def __init__(self, num_vertices: int) -> None:
        super().__init__()
        self.mix_axes = nn.Linear(3, 1)
        self.mix_vertices = nn.Linear(num_vertices, CAMERA_DIM)
        self.output = nn.Linear(CAMERA_DIM, 3)

    def forward(self, vertices: Tensor) -> Tensor:
        """(B, V2, 3) -> (B, 3): scale s and shift tx, ty; also for a batch of one."""
        return self.output(self.mix_vertices(self.mix_axes(vertices)[..., 0]))


class Upsampling(nn.Module):
    """Finer meshes from the coarsest one: learned linear maps over the vertices, axis by axis.

    Args:
        num_vertices: of the meshes, coarsest first: V2, V1, V.
    """

    def __init__(self, num_vertices: Sequence[int]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(map(nn.Linear, num_vertices[:-1], num_vertices[1:]))

    @torch.no_grad()
    def interpolate(self, body: Body) -> None:
        """Begin with sums of the coarser mesh's vertices, as they make the finer template."""
        full = body.template
        meshes = [full, *(full[level] for level in body.coarse_vertices)][::-1]
        for step, coarse, fine in zip(self.steps, meshes[:-1], meshes[1:], strict=True):
            step.weight.copy_(as_float32(interpolation_weights(fine, coarse)))
            step.bias.zero_()

    def forward(self, coarsest: Tensor) -> list[Tensor]:
        """(B, V2, 3) -> the meshes (B, V, 3), (B, V1, 3) and (B, V2, 3) itself."""
        meshes = [coarsest.transpose(1, 2)]  # (B, 3, V2)
        for step in self.steps:
            meshes.insert(0, step(meshes[0]))
        return [mesh.transpose(1, 2) for mesh in meshes]


class Metro(nn.Module):
    """METRO for the human body.

    Args:
        backbone: (B, 3, S, S) -> (B, C, h, w); has the attributes ``num_channels`` and ``stride``.
        blocks: the transformer; the first takes tokens of C + 3 channels, the last returns 3.
        masking: what becomes of the tokens before the transformer.
        body: where the meshes come from. Nothing of it is saved with the weights.
        image_size: S, a multiple of the backbone's stride.
        loss: judges the outputs in training.
    """

    def __init__(
        self,
        backbone: Backbone,
        blocks: Sequence[EncoderBlock],
        masking: TokenMasking,
        body: Body,
        image_size: int,
        loss: MeshLoss,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.backbone = backbone
        template = template_tokens(body)  # (N, 3)
        num_cells = (image_size // backbone.stride) ** 2
        # The official Conv1d of kernel 1 whose channels are the cells is this linear map.
        self.image_tokens = nn.Linear(num_cells, len(template))
        self.masking = masking
        self.blocks = nn.ModuleList(blocks)
        sizes = [len(body.template), *map(len, body.coarse_vertices)]  # V, V1, V2
        self.camera_head = CameraHead(sizes[-1])
        self.upsampling = Upsampling(sizes[::-1])
        self.loss = loss
        # The body's arrays are known where the model is built: non-persistent.
        constants = {
            "pixel_mean": 255 * torch.tensor(IMAGENET_MEAN)[:, None, None],
            "pixel_std": 255 * torch.tensor(IMAGENET_STD)[:, None, None],
            "template": template,
            "joint_regressor": as_float32(body.h36m_regressor[list(JOINTS_FROM_H36M)]),  # (J, V)
            "coarse_vertices_1": torch.as_tensor(body.coarse_vertices[0]),
            "coarse_vertices_2": torch.as_tensor(body.coarse_vertices[1]),
        }
        for name, tensor in constants.items():
            self.register_buffer(name, tensor, persistent=False)

    def totals(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """What a part of ``samples`` must know of all, see ``MeshLoss.totals``."""
        known = (
            torch.tensor([bool(sample[name]) for sample in samples], device=self.device)
            for name in ("has_mesh", "has_joints_3d")
        )
        return self.loss.totals(*known)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(
        self, samples: Sequence[dict[str, Any]], totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Recover meshes (eval mode), or judge the recovered ones (training mode).

        Args:
            samples: one dict per image. ``image``: uint8 (3, S, S), RGB; in training also
                ``vertices`` (V, 3) float32, the origin at the mesh's Human3.6M pelvis;
                ``joints_3d`` (J, 4) and ``joints_2d`` (J, 3) float32, the last number the
                confidence, the picture's x and y in [-1, 1]; ``has_mesh`` and ``has_joints_3d``,
                bool: False = not known, whatever the numbers are.
            totals: in training, of the batch that these samples are a part of.

        Returns:
            In training the weighted losses by name (see ``MeshLoss``). Else a list with, for each
            image, ``vertices`` (V, 3) as the network gives them, ``joints_3d`` (J, 3) regressed
            from them, ``joint_tokens`` (J, 3), and ``camera`` (3,): scale s and shift tx, ty, so
            that s (x + tx), s (y + ty) lie in [-1, 1] of the crop.
        """
        outputs = self.predict_batch(self.batch(samples))
        if self.training:
            with in_float32(self.device):
                return self.loss(outputs, self.targets(samples), totals)
        predicted = {
            "vertices": outputs["meshes"][0],
            "joints_3d": outputs["mesh_joints"],
            "joint_tokens": outputs["joint_tokens"],
            "camera": outputs["camera"],
        }
        return [
            {name: tensor[i].float() for name, tensor in predicted.items()}
            for i in range(len(samples))
        ]

    def batch(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """The images of ``samples``, normalised: (B, 3, S, S) float32."""
        for sample in samples:
            if sample["image"].shape[-2:] != (self.image_size, self.image_size):
                height, width = sample["image"].shape[-2:]
                raise UserError(
                    f"the model takes images of {self.image_size} x {self.image_size} pixels, got "
                    f"{width} x {height}: make model.image_size and the mappers' image_size equal"
                )
        images = torch.stack([sample["image"] for sample in samples])
        images = images.to(self.pixel_mean.device, non_blocking=True)
        return images.float().sub_(self.pixel_mean).div_(self.pixel_std)

    def targets(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What ``MeshLoss`` compares with, the coarser meshes picked from the full one."""
        device = self.pixel_mean.device
        targets: dict[str, Any] = {
            name: torch.stack([torch.as_tensor(sample[name]) for sample in samples]).to(
                device, non_blocking=True
            )
            for name in TARGETS
        }
        vertices = targets.pop("vertices")
        coarser = (self.coarse_vertices_1, self.coarse_vertices_2)
        return {**targets, "meshes": [vertices, *(vertices[:, level] for level in coarser)]}

    def predict_batch(self, images: Tensor) -> dict[str, Any]:
        """What the official METRO returns for a batch, and the joints of the mesh.

        Args:
            images: (B, 3, S, S) normalised.

        Returns:
            ``camera`` (B, 3); ``joint_tokens`` (B, J, 3); ``mesh_joints`` (B, J, 3), regressed
            from the full mesh; ``meshes``: (B, V, 3), (B, V1, 3), (B, V2, 3).
        """
        cells = self.backbone(images).flatten(2)  # (B, C, L)
        image_tokens = self.image_tokens(cells).transpose(1, 2)  # (B, N, C)
        template = self.template.to(image_tokens.dtype).expand(images.shape[0], -1, -1)  # (B, N, 3)
        tokens = self.masking(torch.cat([template, image_tokens], dim=2))
        for block in self.blocks:
            tokens = block(tokens)
        joint_tokens, coarsest = tokens.split([len(JOINTS), tokens.shape[1] - len(JOINTS)], dim=1)
        with in_float32(self.device):  # bfloat16 would place vertices by two millimetres in a metre
            meshes = self.upsampling(coarsest)
            return {
                "camera": self.camera_head(coarsest),
                "joint_tokens": joint_tokens,
                "mesh_joints": self.joint_regressor.to(meshes[0].dtype) @ meshes[0],
                "meshes": meshes,
            }


def template_tokens(body: Body) -> Tensor:
    """Where joints and vertices of the coarsest mesh are in the template, upside down as METRO's.

    Returns:
        (N, 3) float32, the origin at the Human3.6M pelvis.
    """
    vertices = body.template_pose()  # (V, 3)
    joints = body.h36m_joints(vertices)  # (17, 3)
    tokens = [joints[list(JOINTS_FROM_H36M)], vertices[body.coarse_vertices[-1]]]
    return torch.cat([as_float32(part - joints[H36M_PELVIS]) for part in tokens])


def as_float32(array: Any) -> Tensor:
    """A numpy array as a float32 tensor."""
    return torch.as_tensor(array, dtype=torch.float32)
