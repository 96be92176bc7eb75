import numpy as np
import pytest
from matplotlib.lines import Line2D

from projects.figure import (
    SMALL_FONT_SIZE,
    Panel,
    PictureRow,
    add_axes,
    draw_page,
    new_figure,
    save,
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


def shade(level, caption, width=320, height=200):
    image = np.full((height, width, 3), level, np.uint8)
    return Panel(caption, width, height, lambda axes: axes.imshow(image, interpolation="nearest"))


def test_rows_lie_below_each_other_and_nothing_over_a_picture():
    rows = [
        PictureRow([shade(10, "a"), shade(60, "b"), shade(110, "c")], "first $x"),
        PictureRow([shade(110, "d"), shade(60, "e"), shade(10, "f")], "second"),
    ]
    figure = draw_page(rows, ["a heading"])
    drawn = pixels(figure)
    assert drawn.shape == (54 + 2 * (60 + 200 + 16), 16 + 3 * (320 + 16), 3)
    for row, order in enumerate(([10, 60, 110], [110, 60, 10])):
        y = 54 + 60 + row * (60 + 200 + 16)
        for column, level in enumerate(order):
            x = 16 + column * (320 + 16)
            assert (drawn[y : y + 200, x : x + 320] == level).all()
            assert (drawn[y : y + 200, x - 16 : x] == 255).all()
    said = [text.get_text() for text in figure.texts if text.get_text()]
    assert said == ["a heading", r"first \$x", "a", "b", "c", "second", "d", "e", "f"]


def test_row_is_as_high_as_its_highest_picture_with_the_longest_caption():
    row = PictureRow([shade(10, "one line", 90, 90), shade(10, "one\ntwo\nthree", 90, 20)])
    figure = draw_page([row])
    drawn = pixels(figure)
    assert drawn.shape == (70 + 90 + 16, 900, 3)
    assert (drawn[70:160, 16:106] == 10).all() and (drawn[70:90, 122:212] == 10).all()
    bottoms = {text.get_text(): text.get_position()[1] * 176 for text in figure.texts}
    assert bottoms["one line"] == pytest.approx(bottoms["three"])
    assert bottoms["one"] - bottoms["two"] == pytest.approx(20)


def test_legend_is_one_row_below_the_heading():
    legend = [Line2D([], [], label=name) for name in ("first", "second")]
    figure = draw_page([PictureRow([shade(255, "")])], ["heading"], legend)
    rows, columns = np.nonzero((pixels(figure)[46:76] < 200).any(axis=2))
    assert rows.min() > 0 and rows.max() < 29
    assert abs(columns.min() - 16) <= 2


def test_saving_says_where_and_is_the_same_each_time(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        save(new_figure(20, 10), tmp_path / name)
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}\n{tmp_path / 'b.png'}\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
