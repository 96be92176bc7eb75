import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from projects.metro.body.model import Body, write_body
from projects.metro.body.skeleton import SMPL_PARENTS
from projects.metro.build import build_model

NUM_VERTICES = (60, 20, 8)


@pytest.fixture(scope="session")
def toy_body():
    """A body of 60, 20 and 8 vertices on an egg of a person's size; no joint is where it was."""
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(NUM_VERTICES[0], 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    template = directions * [0.3, 0.85, 0.2] + [0, -0.2, 0]
    first, second = (np.sort(generator.permutation(n)[:k]) for n, k in ((60, 20), (20, 8)))
    return Body(
        template=template,
        faces=hull(template),
        shape_directions=generator.normal(scale=0.01, size=(60, 3, 10)),
        pose_directions=generator.normal(scale=0.002, size=(60, 3, 207)),
        joint_regressor=generator.dirichlet(np.full(60, 0.05), size=24),
        parents=np.array(SMPL_PARENTS),
        skin_weights=generator.dirichlet(np.full(24, 0.2), size=60),
        h36m_regressor=generator.dirichlet(np.full(60, 0.05), size=17),
        coarse_vertices_1=first,
        coarse_faces_1=hull(template[first]),
        coarse_vertices_2=first[second],
        coarse_faces_2=hull(template[first[second]]),
    )


def hull(points):
    """Outward faces (2 n - 4, 3) int32 of n points in convex position."""
    faces = ConvexHull(points).simplices
    a, b, c = points[faces].transpose(1, 0, 2)
    inward = (np.cross(b - a, c - a) * (a - points.mean(axis=0))).sum(axis=1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return faces.astype(np.int32)


@pytest.fixture(scope="session")
def toy_body_file(toy_body, tmp_path_factory):
    """The .npz of ``toy_body``."""
    path = tmp_path_factory.mktemp("body") / "toy.npz"
    write_body(path, toy_body)
    return path


SMALL = {"backbone": "resnet10t", "pretrained_backbone": False, "image_size": 64}
SMALL |= {"embed_dims": [32, 16, 8], "token_dims": [12, 8], "num_layers": 2, "ffn_dim": 24}


@pytest.fixture
def small_metro(toy_body_file):
    """Builds a METRO of the toy body: four cells, three blocks of two layers, or as told."""

    def build(**settings):
        torch.manual_seed(0)
        return build_model(toy_body_file, **{**SMALL, **settings})

    return build
