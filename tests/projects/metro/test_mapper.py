from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

pytest.importorskip("smplx", reason="the mapper poses bodies with smplx")

from dropkey_core.engine import UserError
from projects.metro.body.model import BodyModel, write_body
from projects.metro.body.skeleton import JOINTS, SMPL_MIRROR, mirrored
from projects.metro.geometry import crop_map, project
from projects.metro.mapper import Augmentation, MetroMapper, coloured, warped

H36M_MIRROR = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]
SIZE = 128  # of the crop
HEIGHT, WIDTH = 360, 480
HALF = 30
OTHER_SIDE = np.roll(np.arange(2 * HALF), HALF)  # a vertex's place in the mirror


@pytest.fixture(scope="module")
def symmetric_body(toy_body):
    """A body whose mirror image is itself, vertices 30 ... 59 being the mirrored 0 ... 29."""
    generator = np.random.default_rng(1)
    side = generator.normal(scale=0.4, size=(HALF, 3)) * [1, 2, 1]

    def regressor(mirror):
        weights = np.eye(2 * HALF)[: len(mirror)]  # each joint's own vertex, so they lie apart
        return (weights + weights[list(mirror)][:, OTHER_SIDE]) / 2

    weights = generator.dirichlet(np.full(24, 0.2), size=HALF)
    return replace(
        toy_body,
        template=np.concatenate([side, side * [-1, 1, 1]]),
        shape_directions=np.zeros((2 * HALF, 3, 10)),
        pose_directions=np.zeros((2 * HALF, 3, 207)),
        joint_regressor=regressor(SMPL_MIRROR),
        skin_weights=np.concatenate([weights, weights[:, list(SMPL_MIRROR)]]),
        h36m_regressor=regressor(H36M_MIRROR),
    )


@pytest.fixture(scope="module")
def symmetric_file(symmetric_body, tmp_path_factory):
    path = tmp_path_factory.mktemp("body") / "symmetric.npz"
    write_body(path, symmetric_body)
    return path


def world_joints(body, record):
    """H36M's 14 joints in the world, straight from the definition of HUMBI's fit."""
    posed = BodyModel(body)(torch.tensor(record["pose"])[None], torch.tensor(record["betas"])[None])
    vertices = record["scale"] * posed[0].double().numpy() + record["translation"]
    return vertices, body.joints(vertices)


def seen(record, points):
    """Pixels of world points by M = K R [I | -C]."""
    M = record["K"] @ record["R"] @ np.column_stack([np.eye(3), -record["C"]])
    pixels = np.column_stack([points, np.ones(len(points))]) @ M.T
    return pixels[:, :2] / pixels[:, 2:]


@pytest.fixture
def record(tmp_path):
    """A view of a person two metres high in a world of 1.5 units per metre; no picture yet."""
    generator = np.random.default_rng(3)
    R = Rotation.from_euler("xyz", [0.2, -0.3, 2.9]).as_matrix()
    translation = np.array([0.3, -0.2, 0.4])
    return {
        "file_name": str(tmp_path / "picture.png"),
        "image_id": 7,
        "subject": 2,
        "frame": 3,
        "camera": 4,
        "height": HEIGHT,
        "width": WIDTH,
        "centre": np.array([236.3, 181.8], np.float32),
        "box_side": 288.8,
        "K": np.array([[500.0, 0, 250], [0, 500, 170], [0, 0, 1]]),
        "R": R,
        "C": translation - R.T @ [0.1, 0.05, 6.0],
        "scale": 1.5,
        "translation": translation.astype(np.float32),
        "pose": generator.normal(scale=0.3, size=72).astype(np.float32),
        "betas": generator.normal(size=10).astype(np.float32),
    }


def blob_picture(pixels, sigma=3.0):
    """A bright spot of 150 around each pixel, on black: (HEIGHT, WIDTH, 3) uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.zeros((HEIGHT, WIDTH))
    for u, v in pixels:
        picture = np.maximum(picture, np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2)))
    return np.repeat((150 * picture)[..., None], 3, axis=2).round().astype(np.uint8)


def centroid(image, x, y, radius=6):
    """Centre of brightness of a window of an image (height, width) around a pixel."""
    left, top = round(x) - radius, round(y) - radius
    window = image[top : top + 2 * radius + 1, left : left + 2 * radius + 1].astype(float)
    v, u = np.mgrid[: window.shape[0], : window.shape[1]]
    return np.array([(u * window).sum(), (v * window).sum()]) / window.sum() + [left, top]


def isolated(pixels, margin=12):
    """Which pixels (14, 2) are well inside the crop and away from the others."""
    distances = np.linalg.norm(pixels[:, None] - pixels, axis=-1) + 1e6 * np.eye(len(pixels))
    inside = ((pixels > margin) & (pixels < SIZE - 1 - margin)).all(axis=1)
    return np.flatnonzero(inside & (distances.min(axis=1) > margin))


def test_the_picture_of_the_joints_shows_them_at_joints_2d(symmetric_body, symmetric_file, record):
    """Whatever is drawn: the spots painted where the joints are, are found where they are said."""
    picture = blob_picture(seen(record, world_joints(symmetric_body, record)[1]))
    cv2.imwrite(record["file_name"], picture)
    mapper = MetroMapper(symmetric_file, True, SIZE, truncate_joints_2d=False)
    found = 0
    for seed in range(60):
        torch.manual_seed(seed)
        sample = mapper(record)
        focal = sample["K"][0, 0]  # with mesh and picture turned apart it would be no such camera
        assert_allclose(sample["K"][:, :2], [[focal, 0], [0, focal], [0, 0]], atol=1e-3)
        pixels = (sample["joints_2d"][:, :2].double().numpy() + 1) / 2 * SIZE - 0.5
        for joint in isolated(pixels):
            spot = centroid(sample["image"][1].numpy(), *pixels[joint])
            assert_allclose(spot, pixels[joint], atol=0.05, err_msg=f"{JOINTS[joint]}, {seed}")
            found += 1
    assert found > 50


AUGMENTATIONS = [
    Augmentation(),
    Augmentation(mirrored=True),
    Augmentation(degrees=37.0),
    Augmentation(zoom=0.8),
    Augmentation(mirrored=True, degrees=-60.0, zoom=1.25),
]


@pytest.mark.parametrize("drawn", AUGMENTATIONS)
def test_the_projected_mesh_stays_on_the_picture(symmetric_body, symmetric_file, record, drawn):
    to_crop = crop_map(record["centre"], 200 * drawn.zoom, SIZE, drawn.degrees, drawn.mirrored)
    mapper = MetroMapper(symmetric_file, True, SIZE, truncate_joints_2d=False)
    sample = mapper.targets(record, drawn, to_crop)
    vertices, joints = world_joints(symmetric_body, record)
    if drawn.mirrored:
        vertices, joints = vertices[OTHER_SIDE], joints[list(mirrored(JOINTS))]

    def on_crop(points):
        return (np.column_stack([seen(record, points), np.ones(len(points))]) @ to_crop.T)[:, :2]

    for points, expected in [
        (sample["vertices"], on_crop(vertices)),
        (sample["joints_3d"][:, :3], on_crop(joints)),
    ]:
        pixels = project((points + sample["pelvis"]).double(), sample["K"].double())
        assert_allclose(pixels, expected, atol=1e-3)
    positions = 2 * (on_crop(joints) + 0.5) / SIZE - 1
    assert_allclose(sample["joints_2d"][:, :2], positions, atol=1e-5)
    assert_allclose(sample["joints_3d"][:, 3], 1)
    assert_allclose(sample["joints_2d"][:, 2], 1)
    if not drawn.degrees:
        assert_allclose(sample["K"][:2, :2], np.eye(2) * 500 * SIZE / 200 / drawn.zoom, atol=1e-3)


def test_an_evaluation_sample_is_metric_and_on_the_cameras_axes(toy_body, toy_body_file, record):
    cv2.imwrite(record["file_name"], np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8))
    record["betas"][:] = 0
    sample = MetroMapper(toy_body_file, False, SIZE)(record)
    vertices, _ = world_joints(toy_body, record)
    metric = (vertices - record["C"]) @ record["R"].T / 1.5
    pelvis = toy_body.h36m_joints(metric)[0]
    assert_allclose(sample["vertices"], metric - pelvis, atol=1e-6)
    assert_allclose(sample["pelvis"], pelvis, atol=1e-6)
    assert sample["image"].shape == (3, SIZE, SIZE)
    assert sample["image"].dtype == torch.uint8
    assert sample["image"][:, 40, 40].tolist() == [30, 20, 10]  # RGB; OpenCV wrote BGR
    assert sample["has_mesh"] is True and sample["has_joints_3d"] is True
    kept = ("file_name", "image_id", "subject", "frame", "camera")
    assert {name: sample[name] for name in kept} == {name: record[name] for name in kept}
    for name in ("vertices", "joints_3d", "joints_2d", "K", "pelvis"):
        assert sample[name].dtype == torch.float32


def test_joints_2d_are_cut_off_to_whole_pixels_before_the_mirror(toy_body_file):
    mapper = MetroMapper(toy_body_file, True, 10)
    pixels = np.array([[3.2, 7.9]])  # 3.7 and 8.4 pixels from the edges: cut to 3 and 8, then + 1
    assert_allclose(mapper.positions(pixels, mirrored=False), [[-0.2, 0.8]])
    # Before the mirror it was 6.3 pixels from the left edge: 6, then 7, so 3 from it after.
    assert_allclose(mapper.positions(pixels, mirrored=True), [[-0.4, 0.8]])
    exact = MetroMapper(toy_body_file, True, 10, truncate_joints_2d=False)
    assert_allclose(exact.positions(pixels, mirrored=True), [[-0.26, 0.68]])


@pytest.mark.parametrize("drawn", AUGMENTATIONS[:2])
def test_a_samples_joints_2d_are_cut_off(symmetric_file, record, drawn):
    to_crop = crop_map(record["centre"], 200, SIZE, mirrored=drawn.mirrored)
    mapper = MetroMapper(symmetric_file, True, SIZE)
    sample = mapper.targets(record, drawn, to_crop)
    pixels = project(sample["joints_3d"][:, :3] + sample["pelvis"], sample["K"])
    expected = mapper.positions(pixels, drawn.mirrored)
    assert_allclose(sample["joints_2d"][:, :2], expected, atol=1e-5)


def test_draws_have_metros_distribution(toy_body_file):
    mapper = MetroMapper(toy_body_file, True)
    torch.manual_seed(0)
    drawn = [mapper.draw() for _ in range(4000)]
    # Four standard deviations of a share near one half, of 4000.
    assert np.mean([one.mirrored for one in drawn]) == pytest.approx(0.5, abs=0.032)
    degrees = np.array([one.degrees for one in drawn])
    assert np.mean(degrees == 0) == pytest.approx(0.6, abs=0.032)
    assert np.abs(degrees).max() == 60
    turned = degrees[degrees != 0]
    both = np.mean([one.mirrored and one.degrees != 0 for one in drawn])
    assert both == pytest.approx(0.2, abs=0.025)
    assert np.mean(np.abs(turned) < 30) == pytest.approx(0.683, abs=0.05)
    assert np.mean(np.abs(turned) == 60) == pytest.approx(0.0455, abs=0.025)
    zooms = np.array([one.zoom for one in drawn])
    assert (zooms.min(), zooms.max()) == (0.75, 1.25)
    assert np.mean(zooms == 1.25) == pytest.approx(0.159, abs=0.025)
    colours = np.array([one.colours for one in drawn])
    assert colours.min() == pytest.approx(0.6, abs=1e-3)
    assert colours.max() == pytest.approx(1.4, abs=1e-3)
    assert_allclose(np.corrcoef(colours.T), np.eye(3), atol=0.07)
    torch.manual_seed(0)
    assert mapper.draw() == drawn[0]


def test_a_picture_of_another_size_is_refused(toy_body_file, record):
    cv2.imwrite(record["file_name"], np.zeros((HEIGHT, WIDTH - 1, 3), np.uint8))
    with pytest.raises(UserError, match=r"has 479 x 360 pixels .* are for 480 x 360"):
        MetroMapper(toy_body_file, False)(record)


# ---- pixels --------------------------------------------------------------------------------------
@pytest.mark.parametrize("degrees", [0, 20, 45])
@pytest.mark.parametrize("side", [100, 128, 200.6, 370])
def test_a_fine_checkerboard_comes_out_grey(side, degrees):
    y, x = np.mgrid[:600, :600]
    board = np.repeat((255 * ((x + y) % 2))[..., None], 3, axis=2).astype(np.uint8)
    crop = warped(board, crop_map([300.3, 299.6], side, 50, degrees), 50)
    # At 128 pixels to 50 a pixel's area holds no whole number of fields.
    assert np.abs(crop.astype(int) - 127.5).max() < 40
    assert crop.astype(int).mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize("degrees", [0, 33, -60])
@pytest.mark.parametrize("side", [20, 50, 91.7, 160, 333])
def test_a_spot_is_where_the_map_says(side, degrees):
    to_crop = crop_map([241.3, 180.2], side, 50, degrees)
    spot = [244.4, 177.7]
    crop = warped(blob_picture([spot], sigma=max(2, side / 25)), to_crop, 50)
    expected = (to_crop @ [*spot, 1])[:2]
    radius = int(min(*expected, *(49 - expected)))
    assert_allclose(centroid(crop[..., 0], *expected, radius), expected, atol=0.1)


def test_beyond_the_picture_it_is_black():
    white = np.full((60, 80, 3), 255, np.uint8)
    crop = warped(white, crop_map([0, 29.5], 40, 20), 20)
    assert crop[:, :9].max() == 0
    assert crop[:, 11:].min() == 255
    assert warped(white, crop_map([-500, 30], 40, 20), 20).max() == 0


def test_channels_are_multiplied_and_cut_off():
    image = np.full((2, 2, 3), (100, 200, 7), np.uint8)
    assert coloured(image, (0.6, 1.4, 1.25))[0, 0].tolist() == [60, 255, 9]
    assert coloured(image, (1.0, 1.0, 1.0)) is image
