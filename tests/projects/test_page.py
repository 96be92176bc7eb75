import numpy as np
import pytest
from PIL import Image

from projects.page import Panel, PictureRow, draw_page, save, write, write_within


def shade(level, caption="", width=320, height=200):
    return Panel(caption, np.full((height, width, 3), level, np.uint8))


def is_ink(page):
    return (np.asarray(page) < 128).all(axis=2)


def test_text_stands_at_its_middle_height_and_may_look_like_a_formula():
    page = Image.new("RGB", (300, 100), "white")
    write(page, 20, 60, "$x_{$ y^")
    rows, columns = np.nonzero(is_ink(page))
    assert abs((rows.min() + rows.max()) / 2 - 60) < 5
    assert 18 <= columns.min() <= 24


@pytest.mark.parametrize(("length", "least"), [(10, 80), (33, 250), (200, 250)])
def test_long_text_stays_within_its_width(length, least):
    page = Image.new("RGB", (900, 60), "white")
    write_within(page, 20, 30, 300, "$" * length)
    _, columns = np.nonzero(is_ink(page))
    assert columns.min() > 15 and least < columns.max() <= 320


def test_rows_lie_below_each_other_and_nothing_over_a_picture():
    levels = ([10, 60, 110], [110, 60, 10])
    rows = [PictureRow([shade(level, "a") for level in row], "a title") for row in levels]
    page = draw_page(rows, ["a heading"])
    drawn = np.asarray(page)
    assert drawn.shape == (54 + 2 * (60 + 200 + 16), 16 + 3 * (320 + 16), 3)
    for number, row in enumerate(levels):
        y = 54 + 60 + number * (60 + 200 + 16)
        for column, level in enumerate(row):
            x = 16 + column * (320 + 16)
            assert (drawn[y : y + 200, x : x + 320] == level).all()
            assert (drawn[y : y + 200, x - 16 : x] == 255).all()
        assert is_ink(page)[y - 60 : y - 30].any() and is_ink(page)[y - 30 : y].any()


def test_row_is_as_high_as_its_highest_picture_with_the_longest_caption():
    row = PictureRow([shade(10, "one line", 90, 90), shade(10, "one\ntwo\nthree", 90, 20)])
    drawn = np.asarray(draw_page([row]))
    assert drawn.shape == (70 + 90 + 16, 900, 3)
    assert (drawn[70:160, 16:106] == 10).all() and (drawn[70:90, 122:212] == 10).all()
    lines = is_ink(drawn)[:70].reshape(-1, 10, 900)[:, :, :212].any(axis=1)  # tens of rows
    assert not lines[:4, :106].any() and lines[5, :106].any()
    assert all(lines[n, 122:].any() for n in (1, 3, 5))


def test_legend_is_below_the_heading_and_pages_without_one_may_be_narrow():
    legend = [Panel(name, np.full((20, 40, 3), (9, 99, 200), np.uint8)) for name in "ab"]
    drawn = np.asarray(draw_page([PictureRow([shade(255)])], ["heading"], legend))
    rows, columns = np.nonzero((drawn == (9, 99, 200)).all(axis=2))
    assert (rows.min(), rows.max(), columns.min()) == (51, 70, 16)
    assert draw_page([PictureRow([shade(9)])], least_width=0).size == (352, 30 + 200 + 16)


def test_saving_says_where(tmp_path, capsys):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    save(pixels, tmp_path / "a.png")
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}\n"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
