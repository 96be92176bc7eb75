"""Make a small multi-view set of bodies, in HUMBI's layout.

    python datasets/make_bodies.py --num-train 40 --num-val 6

Generated people (datasets/make_body_model.py) of random build and clothes stand in random poses
among a ring of cameras. Every file is one that HUMBI has, in its format: calibration, images,
keypoints, vertices, parameters of the body model. The index and the two lists of subjects come from
datasets/prepare_humbi.py's code. The same settings give the same set, and asking again for a set
that is there does nothing.
"""

import io
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from generated_set import SetSettings, run_command, write_jpeg, write_json
from make_shapes import textured_background, vivid_colour, with_noise
from mannequin import make_mannequin

from dropkey_core.engine import UserError
from projects.metro.body.model import Body, BodyModel, write_body
from projects.metro.geometry import in_camera
from projects.metro.humbi.files import (
    Camera,
    Fit,
    body_folder,
    image_file,
    keypoint_file,
    parameter_file,
    vertex_file,
    write_cameras,
    write_fit,
    write_vertices,
)
from projects.metro.humbi.prepare import INDEX, prepare
from projects.metro.pictures.rasteriser import render

INFO = "made.json"


@dataclass(frozen=True)
class PeopleSettings(SetSettings):
    """What determines a set.

    ``num_train`` and ``num_val`` count people, each of whom stands in ``num_frames`` poses before
    ``num_cameras`` cameras. Images are ``image_size`` pixels high.
    """

    description: ClassVar[str] = "People in poses, made by datasets/make_bodies.py"
    version: ClassVar[str] = "1"

    num_train: int = 40
    num_val: int = 6
    image_size: int = 128
    num_frames: int = 12
    num_cameras: int = 6

    def __post_init__(self):
        super().__post_init__()
        if min(self.num_frames, self.num_cameras) < 1:
            raise UserError(
                "--num-frames and --num-cameras must be at least 1, "
                f"got {self.num_frames} and {self.num_cameras}"
            )


# ---- poses: SMPL's rest pose is a T, y up, facing +z, the left arm along +x; degrees -------------
HIP, KNEE, ANKLE, SHOULDER, ELBOW, WRIST = 1, 4, 7, 16, 18, 20  # the left ones; right: 1 more
SPINE, NECK_AND_HEAD = (3, 6, 9), (12, 15)


def draw_pose(rng: np.random.Generator) -> np.ndarray:
    """Somebody who stands, walks, reaches or waves: (24, 3) axis-angles in radians.

    The root is turned about the vertical and put upright for an image, whose y points down.
    """
    turns = [Rotation.identity()] * 24
    for joint in SPINE:
        turns[joint] = about(x=rng.normal(3, 6), y=rng.normal(0, 6), z=rng.normal(0, 4))
    for joint in NECK_AND_HEAD:
        turns[joint] = about(x=rng.normal(0, 8), y=rng.normal(0, 15), z=rng.normal(0, 5))
    stride = rng.normal(0, 18)
    for side, sign in ((0, 1), (1, -1)):
        lift = max(rng.normal(0, 20), 0)
        turns[HIP + side] = about(
            x=-lift - sign * stride, y=rng.normal(0, 8), z=sign * abs(rng.normal(0, 6))
        )
        turns[KNEE + side] = about(x=abs(rng.normal(0, 20)) + 0.8 * lift)
        turns[ANKLE + side] = about(x=rng.normal(0, 6))
        lowered, swung, bent = rng.uniform(-30, 80), rng.normal(15, 30), rng.uniform(0, 110)
        turns[SHOULDER + side] = about(x=-swung) * about(z=-sign * lowered)
        turns[ELBOW + side] = about(y=-sign * bent)
        turns[WRIST + side] = about(x=rng.normal(0, 10), z=rng.normal(0, 10))
    turns[0] = about(x=180) * about(y=rng.uniform(-180, 180)) * about(x=rng.normal(0, 5))
    return Rotation.concatenate(turns).as_rotvec()


def about(x: float = 0, y: float = 0, z: float = 0) -> Rotation:
    """Rotation about fixed axes, first x, then y, then z, in degrees."""
    return Rotation.from_euler("xyz", [x, y, z], degrees=True)


# ---- cameras: the world's y points down, the floor is y = 0, people stand about its origin -------
RING_RADIUS, RING_HEIGHT, LOOKED_AT = 3.5, 1.3, 0.9  # metres
CAMERA_STEP = 7  # between the ids of neighbours: HUMBI's ids have gaps, too


def ring_of_cameras(rng: np.random.Generator, settings: PeopleSettings) -> dict[int, Camera]:
    """Cameras evenly about the floor's origin, by id; no two rings are quite alike."""
    height, width = image_shape(settings)
    focal = 0.75 * height * RING_RADIUS / 1.75  # who is 1.75 m tall fills three quarters
    cameras = {}
    for number in range(settings.num_cameras):
        angle = 2 * np.pi * number / settings.num_cameras + rng.normal(0, 0.1)
        centre = np.array([np.sin(angle), 0, -np.cos(angle)]) * RING_RADIUS * rng.uniform(0.95, 1.1)
        centre[1] = -RING_HEIGHT + rng.normal(0, 0.15)
        x, y = np.array([width, height]) * (0.5 + rng.normal(0, 0.01, size=2))
        lens = focal * rng.uniform(0.95, 1.05)
        cameras[CAMERA_STEP * number] = Camera(
            np.array([[lens, 0, x], [0, lens, y], [0, 0, 1]]),
            looking_at(np.array([0, -LOOKED_AT, 0]), centre),
            centre,
        )
    return cameras


def looking_at(target: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """World-to-camera rotation (3, 3) of an upright camera at ``centre``, both (3,) in metres."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def image_shape(settings: PeopleSettings) -> tuple[int, int]:
    """Height and width of the images in pixels."""
    return settings.image_size, round(settings.image_size * 4 / 3)


# ---- people --------------------------------------------------------------------------------------
# What people wear, as joints of the body model, and in which of OpenCV's hues, 0 to 179. Left and
# right differ, the same for everybody, because a network finds colours in minutes and shapes in
# hours.
CLOTHES = {
    "shirt": ((3, 6, 9, 13, 14), 115),
    "left sleeve": ((16, 18), 150),
    "right sleeve": ((17, 19), 90),
    "shorts": ((0,), 10),
    "left leg": ((1, 4, 7, 10), 65),
    "right leg": ((2, 5, 8, 11), 30),
}
HUE_SPREAD = 6
HEAD = 15  # neck, head and hands are skin
HAIRLINE = 0.02  # metres above a slope that rises to the front through the head joint

# HUMBI's keypoints (OpenPose's BODY_25) as joints of the body model, and how far in front of, above
# or to the left of them the rest are: x to the left, y up, z to the front, in metres.
KEYPOINT_JOINTS = (15, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 15, 15, 15, 15, 10, 10, 7)
KEYPOINT_JOINTS += (11, 11, 8)
KEYPOINT_OFFSETS = {
    0: (0, 0.06, 0.1),  # nose
    15: (-0.03, 0.1, 0.08),  # eyes
    16: (0.03, 0.1, 0.08),
    17: (-0.08, 0.08, 0),  # ears
    18: (0.08, 0.08, 0),
    19: (-0.02, -0.01, 0.07),  # toes and heels
    20: (0.04, -0.01, 0.05),
    21: (0, -0.05, -0.05),
    22: (0.02, -0.01, 0.07),
    23: (-0.04, -0.01, 0.05),
    24: (0, -0.05, -0.05),
}


def draw_poses(
    rng: np.random.Generator, body: Body, settings: PeopleSettings
) -> tuple[list[Fit], np.ndarray]:
    """Somebody of random build in ``num_frames`` poses, with feet on the floor.

    Returns:
        the body's parameters in each frame, and its vertices (frames, V, 3) in world units.
    """
    scale = rng.uniform(0.9, 1.1)  # world units per metre: what a fit cannot know
    betas = rng.normal(0, 0.8, size=10).clip(-2, 2)
    poses = np.array([draw_pose(rng).ravel() for _ in range(settings.num_frames)])
    with torch.no_grad():
        posed = BodyModel(body)(
            torch.tensor(poses, dtype=torch.float32),
            torch.tensor(betas, dtype=torch.float32).expand(len(poses), -1),
        ).numpy()
    places = rng.uniform(-0.25, 0.25, size=(len(poses), 3))
    places -= scale * (body.joint_regressor[0] @ posed)  # the root joint stands there
    places[:, 1] = -scale * posed[..., 1].max(axis=1)
    fits = [Fit(scale, place, pose, betas) for place, pose in zip(places, poses, strict=True)]
    return fits, scale * posed + places[:, None]


def draw_clothes(rng: np.random.Generator, body: Body) -> np.ndarray:
    """Colours (V, 3) of clothes, hair and skin."""
    part = body.skin_weights.argmax(axis=1)
    skin = np.array([90, 130, 190]) * rng.uniform(0.5, 1.2)
    colours = np.tile(skin, (len(part), 1))
    for joints, hue in CLOTHES.values():
        colours[np.isin(part, joints)] = vivid_colour(rng, hue, HUE_SPREAD)
    _, y, z = (body.template - (body.joint_regressor @ body.template)[HEAD]).T
    colours[(part == HEAD) & (y - z > HAIRLINE)] = rng.uniform(10, 60)
    return colours.clip(0, 255)


def keypoint_vertices(body: Body) -> np.ndarray:
    """For each of HUMBI's 25 keypoints the template's nearest vertex."""
    joints = (body.joint_regressor @ body.template)[list(KEYPOINT_JOINTS)]
    for keypoint, offset in KEYPOINT_OFFSETS.items():
        joints[keypoint] += offset
    return np.linalg.norm(joints[:, None] - body.template, axis=2).argmin(axis=1)


# ---- files ---------------------------------------------------------------------------------------
def write_subject(bundle: Path, body: Body, settings: PeopleSettings, subject: int) -> None:
    """Write one subject's body session, from a seed of its own."""
    torch.set_num_threads(1)
    rng = np.random.default_rng([settings.seed, subject])
    fits, meshes = draw_poses(rng, body, settings)
    colours = draw_clothes(rng, body)
    cameras = ring_of_cameras(rng, settings)
    keypoints, shape = keypoint_vertices(body), image_shape(settings)
    folder = body_folder(bundle, subject)
    write_cameras(folder, cameras, settings.num_frames)
    for frame, (fit, vertices) in enumerate(zip(fits, meshes, strict=True), 1):
        write_fit(parameter_file(folder, frame), fit)
        write_vertices(vertex_file(folder, frame), vertices)
        write_vertices(keypoint_file(folder, frame), vertices[keypoints])
        for number, camera in cameras.items():
            path = image_file(folder, frame, number)
            path.parent.mkdir(exist_ok=True)
            image = render(
                in_camera(vertices, camera.R, camera.C),
                body.faces,
                camera.K,
                shape,
                colours,
                textured_background(rng, *shape),
            )
            write_jpeg(path, with_noise(rng, image))


def make_bodies(output: Path, settings: PeopleSettings, body: Body | None = None) -> bool:
    """Write the set to a folder.

    Args:
        output: the folder.
        settings: what determines the set.
        body: whose shapes and poses the people are; None: the mannequin of make_body_model.py.

    Returns:
        False if the set was already there.

    Raises:
        UserError: the folder holds another set, or what it says of itself cannot be read.
    """
    info = output / INFO
    if info.exists():
        settings.check_info(output, info)
        if (output / INDEX).exists():  # which is written last
            return False
    # First, so that nothing of this set is ever mixed with another's, should it be stopped.
    write_json(info, settings.info())
    body = body or make_mannequin()
    write_body(output.absolute() / "body.npz", body, "made by datasets/make_bodies.py")
    train = range(1, settings.num_train + 1)
    test = range(train.stop, train.stop + settings.num_val)
    bundle = output / f"Body_1_{test.stop - 1}"
    write = partial(write_subject, bundle, body, settings)
    with ProcessPoolExecutor() as workers:
        subjects = [*train, *test]
        for _ in tqdm(workers.map(write, subjects), "people", len(subjects), disable=None):
            pass
    with redirect_stdout(io.StringIO()):
        prepare(output, train, test, num_vertices=len(body.template))
    return True


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(argv, __doc__, "bodies", PeopleSettings, make_bodies)


if __name__ == "__main__":
    sys.exit(main())
