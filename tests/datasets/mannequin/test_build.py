import numpy as np
import pytest
from mannequin import make_mannequin
from mannequin.anatomy import person

from tests.conftest import SMALL_MANNEQUIN
from tests.datasets.mannequin.meshes import angles, assert_closed, volume

pytestmark = pytest.mark.slow


def coarse_meshes(body, sizes):
    faces = body.coarse_faces_1, body.coarse_faces_2
    return zip(body.coarse_vertices, faces, sizes, strict=True)


def test_the_meshes_are_closed_and_nested(small_mannequin):
    body = small_mannequin
    assert_closed(body.faces, 1000)
    for kept, faces, size in coarse_meshes(body, (300, 200)):
        assert len(set(kept.tolist())) == size
        assert_closed(faces, size)
        assert volume(body.template[kept], faces) > 0.6 * volume(body.template, body.faces)
    assert set(body.coarse_vertices[1].tolist()) < set(body.coarse_vertices[0].tolist())


def test_it_has_a_persons_size_and_stands_on_the_floor(small_mannequin):
    points = small_mannequin.template
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(high - low, [1.75, 1.715, 0.28], atol=0.03)
    np.testing.assert_allclose(low[1], -1.178, atol=0.01)
    assert 0.05 < volume(points, small_mannequin.faces) < 0.07  # cubic metres, that is 50 to 70 kg
    assert abs(person().distance(points)).max() < 1e-4


def test_the_same_arguments_give_the_same_body(small_mannequin):
    again = vars(make_mannequin(**SMALL_MANNEQUIN))
    for name, array in vars(small_mannequin).items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_at_full_size_no_triangle_is_a_sliver():
    body = make_mannequin()
    assert_closed(body.faces, 6890)
    assert angles(body.template, body.faces).min() > 15
    for kept, faces, size in coarse_meshes(body, (1723, 431)):
        assert_closed(faces, size)
        assert angles(body.template[kept], faces).min() > 5
