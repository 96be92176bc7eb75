import numpy as np
import pytest
import torch
from torch.testing import assert_close

from projects.metro.pictures.attention import (
    attended_vertices,
    draw_attention,
    on_full_mesh,
    recover_with_attention,
)
from projects.metro.pictures.view import SIDE, View

SIZE = 64
VIEW_K = np.array([[1000.0, 0, 159.5], [0, 1000, 159.5], [0, 0, 1]])


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    shape = (3, SIZE, SIZE)
    return {"image": torch.randint(256, shape, dtype=torch.uint8, generator=generator)}


def test_attention_is_from_joints_to_vertices_and_changes_nothing(small_metro, sample):
    model = small_metro().eval()
    outputs, attention = recover_with_attention(model, sample)
    assert attention.shape == (14, 8)
    assert ((attention > 0).all(-1) & (attention.sum(-1) < 1)).all()
    with torch.no_grad():
        assert_close(outputs, model([sample])[0], rtol=0, atol=0)


def test_rows_are_joints_and_columns_vertices(small_metro, sample):
    model = small_metro().eval()
    attention = model.blocks[-1].layers[-1].self_attn
    width = attention.embed_dim
    seen = []
    attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    _, weights = recover_with_attention(model, sample)
    with torch.no_grad():
        q, k, _ = torch.nn.functional.linear(
            seen[0], attention.in_proj_weight, attention.in_proj_bias
        ).split(width, dim=2)
        heads = [part.unflatten(2, (4, width // 4)).transpose(1, 2) for part in (q, k)]
        scores = heads[0] @ heads[1].transpose(2, 3) / (width // 4) ** 0.5
        expected = scores.softmax(-1).mean(1)[0, :14, 14:]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_number_of_attended_vertices():
    np.testing.assert_allclose(attended_vertices(np.full(10, 0.05)), 10)
    np.testing.assert_allclose(attended_vertices(np.array([0, 0.3, 0, 0])), 1)
    np.testing.assert_allclose(attended_vertices(np.array([0.2, 0, 0.2, 0.0])), 2)
    # Entropy of 1/2, 1/4, 1/4: 1.5 bits.
    np.testing.assert_allclose(attended_vertices(np.array([0.4, 0.2, 0.2])), 2**1.5)


def test_vertices_of_the_coarsest_mesh_keep_their_values(toy_body):
    values = np.arange(8.0)
    full = on_full_mesh(toy_body, values)
    assert full.shape == (60,)
    np.testing.assert_allclose(full[toy_body.coarse_vertices[-1]], values, atol=1e-6)
    assert full.min() >= 0 and full.max() <= 7
    np.testing.assert_allclose(on_full_mesh(toy_body, np.full(8, 0.3)), 0.3)


def draw(toy_body, weights, joint=0):
    view = View(toy_body.template_pose() + np.array([0, 0, 4.0]), VIEW_K)
    crop = np.full((SIDE, SIDE, 3), 80, np.uint8)
    return view, draw_attention(view, toy_body, joint, weights, crop)


def test_line_leads_to_the_vertex_with_the_greatest_weight(toy_body, monkeypatch):
    monkeypatch.setattr("projects.metro.pictures.attention.NUM_LINES", 1)
    weights = np.full(8, 0.02)
    weights[2] = 0.3
    view, _ = draw(toy_body, weights)
    joints = view.shown(toy_body.joints(view.points))
    joint = int(np.abs(joints - SIDE / 2).max(axis=1).argmin())  # on the picture
    start = joints[joint]
    _, drawn = draw(toy_body, weights, joint)
    assert drawn.shape == (SIDE, SIDE, 3)
    colours = drawn.astype(int)
    is_line = colours[..., 0] > colours[..., 2] + 40  # orange
    ends = view.shown(view.points[toy_body.coarse_vertices[-1]])
    for share in (0.0, 0.5, 1.0):  # the line is all along the way
        x, y = np.rint(start + share * (ends[2] - start)).astype(int)
        assert is_line[y - 1 : y + 2, x - 1 : x + 2].any()
    x, y = np.rint(start + 0.8 * (ends[5] - start)).astype(int)
    assert not is_line[y - 2 : y + 3, x - 2 : x + 3].any()


def test_mesh_is_blue_where_the_attention_is_and_grey_elsewhere(toy_body, monkeypatch):
    monkeypatch.setattr("projects.metro.pictures.attention.with_lines", lambda it, *_: it)
    monkeypatch.setattr("projects.metro.pictures.attention.dot", lambda *_: None)
    _, even = draw(toy_body, np.full(8, 0.1))
    on_mesh = even.std(axis=2) > 5
    assert on_mesh.sum() > 1000
    red, _, blue = np.median(even[on_mesh], axis=0)
    np.testing.assert_allclose(red / blue, 0x56 / 0xE9, atol=0.02)  # of an even share
    weights = np.zeros(8)
    weights[2] = 1
    _, one_place = draw(toy_body, weights)
    is_dark_blue = on_mesh & (one_place[..., 0] < 0.1 * one_place[..., 2])
    is_grey = on_mesh & (one_place.std(axis=2) < 1)
    assert is_dark_blue.sum() > 10 and is_grey.sum() > 10


def test_without_view_there_is_only_the_faded_image(toy_body):
    crop = np.full((SIDE, SIDE, 3), (10, 60, 110), np.uint8)
    drawn = draw_attention(None, toy_body, 0, np.ones(8), crop)
    assert (drawn == round(255 - 0.35 * (255 - 60))).all()
