"""Shape blend shapes: what one unit of each of the ten shape parameters moves.

Displacements (V, 3) in metres, alike on both sides, smooth, and small enough that all ten at 2.5
times their size still look like a person.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mannequin.skinning import bones, nearest_on_bones
from projects.metro.body.skeleton import SMPL_JOINTS


@dataclass(frozen=True)
class RestPose:
    """What the shapes depend on."""

    points: np.ndarray  # (V, 3) vertices
    joints: np.ndarray  # (24, 3) SMPL's
    weights: np.ndarray  # (V, 24) skinning weights

    def share(self, *names: str) -> np.ndarray:
        """How much (V,) vertices belong to joints, by their names without the side."""
        chosen = [name.split("_")[-1] in names for name in SMPL_JOINTS]
        return self.weights[:, chosen].sum(axis=1)

    def from_bones(self) -> np.ndarray:
        """Offsets (V, 3) from the bones that vertices move with, to scale what is around them."""
        owners, start, end = bones(self.joints)
        nearest = nearest_on_bones(self.points, start, end)
        distances = np.linalg.norm(self.points[:, None] - nearest, axis=2)
        # A joint with several bones: its nearest, without a jump between them.
        closeness = self.weights[:, owners] * np.exp(-((distances / 0.05) ** 2) / 2) + 1e-12
        closeness /= closeness.sum(axis=1, keepdims=True)
        return self.points - (closeness[:, :, None] * nearest).sum(axis=1)


def ramp(values: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 up to ``start``, 1 from ``end`` on, smooth in between."""
    share = np.clip((values - start) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


def bump(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """1 at ``centre``, falling off over ``width`` to both sides."""
    return np.exp(-(((values - centre) / width) ** 2))


def moved(
    x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float, like: np.ndarray
) -> np.ndarray:
    """Displacements (V, 3) from their parts, each (V,) or a number, for points ``like``."""
    return np.stack([np.broadcast_to(part, len(like)) for part in (x, y, z)], axis=1)


def height(rest: RestPose) -> np.ndarray:
    """Larger as a whole."""
    return 0.022 * (rest.points - rest.joints[0])


def girth(rest: RestPose) -> np.ndarray:
    """Stouter, trunk more than limbs; head, hands and feet hardly."""
    trunk = rest.share("Pelvis", "Spine1", "Spine2", "Spine3", "Collar", "Hip")
    limbs = rest.share("Shoulder", "Elbow", "Knee", "Neck")
    amount = 0.075 * trunk + 0.055 * limbs + 0.015 * (1 - trunk - limbs)
    return amount[:, None] * rest.from_bones() * [1, 0.3, 1]


def leg_length(rest: RestPose) -> np.ndarray:
    """Longer from the hips to the ankles."""
    y = rest.points[:, 1]
    return moved(0, -0.022 * np.clip((-0.36 - y) / 0.72, 0, 1), 0, y)


def shoulder_width(rest: RestPose) -> np.ndarray:
    """Broader between the shoulders; the arms go along."""
    x, y = rest.points[:, 0], rest.points[:, 1]
    return moved(0.011 * np.sign(x) * ramp(np.abs(x), 0.02, 0.18) * ramp(y, -0.15, 0.15), 0, 0, x)


def arm_length(rest: RestPose) -> np.ndarray:
    """Longer from the shoulders to the wrists."""
    x = rest.points[:, 0]
    return moved(0.018 * np.sign(x) * np.clip((np.abs(x) - 0.18) / 0.50, 0, 1), 0, 0, x)


def belly(rest: RestPose) -> np.ndarray:
    """A rounder belly, and a wider waist."""
    x, y, z = rest.points.T
    near = bump(y, -0.13, 0.11) * rest.share("Pelvis", "Spine1", "Spine2", "Spine3", "Hip")
    front = ramp(z, -0.02, 0.08) * bump(x, 0, 0.13)
    return near[:, None] * moved(0.05 * x, 0, 0.016 * front - 0.003 * ramp(-z, 0, 0.08), x)


def hip_width(rest: RestPose) -> np.ndarray:
    """Broader hips and thighs, a fuller behind."""
    x, y, z = rest.points.T
    near = bump(y, -0.33, 0.13) * (1 - ramp(np.abs(x), 0.25, 0.35))
    wider = 0.009 * np.sign(x) * ramp(np.abs(x), 0.06, 0.16)
    return near[:, None] * moved(wider, 0, -0.007 * ramp(-z, 0.02, 0.10), x)


def chest(rest: RestPose) -> np.ndarray:
    """A deeper and broader chest."""
    x, y, z = rest.points.T
    near = bump(y, 0.09, 0.10) * (1 - ramp(np.abs(x), 0.14, 0.24))
    return near[:, None] * moved(0.04 * x, 0, 0.010 * ramp(z, 0.0, 0.10) + 0.03 * z, x)


def head_size(rest: RestPose) -> np.ndarray:
    """A larger head."""
    centre = rest.joints[SMPL_JOINTS.index("Head")]
    return 0.025 * ramp(rest.points[:, 1], 0.29, 0.37)[:, None] * (rest.points - centre)


def limb_girth(rest: RestPose) -> np.ndarray:
    """Stouter arms and legs."""
    limbs = rest.share("Shoulder", "Elbow", "Hip", "Knee")
    return 0.06 * limbs[:, None] * rest.from_bones()


SHAPES: tuple[Callable[[RestPose], np.ndarray], ...] = (
    *(height, girth, leg_length, shoulder_width, arm_length),
    *(belly, hip_width, chest, head_size, limb_girth),
)


def shape_directions(points: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Displacements (V, 3, 10) in metres per unit of each shape parameter."""
    rest = RestPose(points, joints, weights)
    return np.stack([shape(rest) for shape in SHAPES], axis=2)
