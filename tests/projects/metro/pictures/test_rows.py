import numpy as np

from projects.metro.pictures.rows import (
    PAPER,
    PREDICTED,
    SIDE,
    Row,
    draw_mesh,
    draw_rows,
    resized,
)
from projects.metro.pictures.view import View

SIZE = 32
# A square that covers the middle half of the crop, in both directions.
CORNERS = np.array([[-1.0, -1, 4], [1, -1, 4], [1, 1, 4], [-1, 1, 4]])
FACES = np.array([[0, 3, 2], [0, 2, 1]])
VIEW = View(CORNERS, np.array([[SIZE, 0, (SIZE - 1) / 2], [0, SIZE, (SIZE - 1) / 2], [0, 0, 1.0]]))


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def grey(level):
    return np.full((SIZE, SIZE, 3), level, np.uint8)


def test_mesh_lies_on_its_place_of_the_crop():
    drawn = draw_mesh(VIEW, FACES, grey(90), SIZE)
    quarter = SIDE // 4
    inside = drawn[quarter : 3 * quarter, quarter : 3 * quarter]
    assert drawn.shape == (SIDE, SIDE, 3)
    assert (inside == inside[0, 0]).all()
    red, green, blue = inside[0, 0] / 255
    assert red > 0.5 and blue == 0
    np.testing.assert_allclose(green / red, PREDICTED[1] / PREDICTED[0], atol=0.01)
    outside = np.ones((SIDE, SIDE), bool)
    outside[quarter : 3 * quarter, quarter : 3 * quarter] = False
    assert (drawn[outside] == 90).all()


def test_mesh_may_have_colours_of_its_vertices():
    colours = np.array([[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]])
    drawn = draw_mesh(VIEW, FACES, None, SIZE, vertex_colours=colours)
    top, bottom = drawn[SIDE // 4 + 3, SIDE // 2], drawn[3 * SIDE // 4 - 3, SIDE // 2]
    assert top[0] > 150 and bottom[2] > 150
    assert (drawn[0, 0] == PAPER).all()


def test_without_view_there_is_only_the_crop():
    crop = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(draw_mesh(None, FACES, crop, SIZE), resized(crop))


def test_small_and_large_crops_get_the_same_size():
    for size in (7, SIDE, 500):
        same = np.full((size, size, 3), 77, np.uint8)
        assert (resized(same) == np.full((SIDE, SIDE, 3), 77)).all()


def test_rows_lie_below_each_other_and_nothing_over_a_picture():
    shades = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in (10, 60, 110)]
    rows = [Row("first $x", shades, ("a", "b", "c")), Row("second", shades[::-1], ("c", "b", "a"))]
    figure = draw_rows(rows, ["a heading"])
    drawn = pixels(figure)
    assert drawn.shape == (52 + 2 * (60 + SIDE + 16), 16 + 3 * (SIDE + 16), 3)
    for row, order in enumerate(([10, 60, 110], [110, 60, 10])):
        y = 112 + row * (60 + SIDE + 16)
        for column, level in enumerate(order):
            x = 16 + column * (SIDE + 16)
            assert (drawn[y : y + SIDE, x : x + SIDE] == level).all()
            assert (drawn[y : y + SIDE, x - 16 : x] == 255).all()
    said = [text.get_text() for text in figure.texts]
    assert said == ["a heading", r"first \$x", "a", "b", "c", "second", "c", "b", "a"]


def test_single_row_needs_no_heading():
    row = Row("first", [np.zeros((SIDE, SIDE, 3), np.uint8)], ["a"])
    assert pixels(draw_rows([row])).shape == (60 + SIDE + 16, 900, 3)
