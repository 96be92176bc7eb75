import numpy as np
import pytest
from matplotlib.lines import Line2D

from projects.figure import (
    SMALL_FONT_SIZE,
    add_axes,
    add_legend,
    new_figure,
    save,
    say_saved,
    write,
    write_within,
)


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def test_image_keeps_its_pixels_at_its_place():
    image = np.random.default_rng(0).integers(0, 255, (30, 50, 3)).astype(np.uint8)
    figure = new_figure(200, 101)
    add_axes(figure, 16, 40, 50, 30).imshow(image, interpolation="nearest")
    drawn = pixels(figure)
    assert drawn.shape == (101, 200, 3)
    np.testing.assert_array_equal(drawn[40:70, 16:66], image)
    assert (drawn[:40] == 255).all() and (drawn[:, :16] == 255).all()


def test_text_stands_at_its_middle_height_and_may_look_like_a_formula():
    figure = new_figure(300, 100)
    write(figure, 20, 60, "$x_{$ y^")
    rows, columns = np.nonzero((pixels(figure) < 128).all(axis=2))
    assert abs((rows.min() + rows.max()) / 2 - 60) < 4
    assert 18 <= columns.min() <= 24


@pytest.mark.parametrize(("length", "kept"), [(10, 10), (33, 33), (200, None)])
def test_long_text_stays_within_its_width(length, kept):
    figure = new_figure(400, 60)
    write_within(figure, 20, 30, 300, "$" * length)
    _, columns = np.nonzero((pixels(figure) < 128).all(axis=2))
    assert columns.min() > 15 and columns.max() <= 320
    said = figure.texts[0].get_text()
    if kept:
        assert said == r"\$" * kept
    else:
        assert said.endswith("…") and figure.texts[0].get_fontsize() == SMALL_FONT_SIZE


def test_legend_is_one_row():
    figure = new_figure(400, 60)
    add_legend(figure, 16, 30, [Line2D([], [], label=name) for name in ("first", "second")])
    rows, columns = np.nonzero((pixels(figure) < 200).any(axis=2))
    assert rows.min() > 15 and rows.max() < 45
    assert abs(columns.min() - 16) <= 2


def test_saving_says_where(tmp_path, capsys):
    say_saved(new_figure(20, 10), tmp_path / "a.png")
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}\n"
    again = save(new_figure(20, 10), tmp_path / "b.png")
    assert again.read_bytes() == (tmp_path / "a.png").read_bytes()
    assert again.read_bytes()[:4] == b"\x89PNG"
