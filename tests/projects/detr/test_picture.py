import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox

from projects.detr.picture import (
    ORANGE,
    SKY,
    Marking,
    Picture,
    draw_picture,
    draw_pictures,
    label_places,
    overlap,
)


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def rgb(colour):
    return np.rint(255 * np.array(to_rgb(colour)))


def grey_image(height, width):
    return np.full((height, width, 3), 90, dtype=np.uint8)


def box(*corners, label="cat 0.90", colour=ORANGE, **more):
    return Marking([corners], [colour], label, colour, **more)


@pytest.mark.parametrize(("is_true", "least", "most"), [(False, 1, 1), (True, 0.4, 0.8)])
def test_box_is_a_line_where_it_belongs_on_an_enlarged_image(is_true, least, most):
    """A solid one, or a dashed one if it is true."""
    marking = box(20, 10, 70, 45, colour=SKY, is_true=is_true)
    drawn = pixels(draw_picture(Picture("", grey_image(50, 100), [marking]))).astype(int)
    assert drawn.shape == (400, 800, 3)
    on_the_left = np.abs(drawn[120:340, 160] - rgb(SKY)).max(axis=1) < 12  # x = 8 * 20
    assert least <= on_the_left.mean() <= most
    assert (drawn[200, 180:540] == 90).all()  # inside
    assert (drawn[:50] == 90).all()  # above label and box


def test_line_leads_from_middle_to_middle():
    pair = Marking([(10, 10, 30, 30), (60, 10, 80, 30)], [ORANGE, SKY], label_colour="#F0E442")
    drawn = pixels(draw_picture(Picture("", grey_image(50, 100), [pair]))).astype(int)
    assert (np.abs(drawn[160, 170:550] - rgb("#F0E442")).max(axis=1) < 12).sum() > 350
    assert (drawn[160, :70] == 90).all() and (drawn[160, 650:] == 90).all()


def test_lines_along_the_edges_of_the_image_are_whole():
    drawn = pixels(
        draw_picture(Picture("", grey_image(100, 100), [box(-5, 0, 120, 100, label="")]))
    )
    for edge in (drawn[400, :3], drawn[400, -3:], drawn[:3, 400], drawn[-3:, 400]):
        assert (np.abs(edge.astype(int) - rgb(ORANGE)) < 20).all(axis=1).sum() >= 2


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((4000, 2000), (1600, 800)), ((1, 1), (800, 800)), ((900, 1200), (900, 1200))],
)
def test_only_small_and_large_images_are_resized(size, drawn):
    assert pixels(draw_picture(Picture("", grey_image(*size)))).shape == (*drawn, 3)


def test_labels_stay_inside_and_hide_no_other():
    canvas, taken = Bbox.from_extents(0, 0, 100, 100), []
    for x, y in [(x, y) for x in (-5, 5, 80) for y in (-5, 5, 75)]:
        places = list(label_places((35, 10), Bbox.from_extents(x, y, x + 30, y + 30), canvas))
        assert all(canvas.containsx(p.x0) and canvas.containsx(p.x1) for p in places)
        assert all(canvas.containsy(p.y0) and canvas.containsy(p.y1) for p in places)
        taken.append(next(p for p in places if not p.padded(-1).count_overlaps(taken)))


def test_first_label_has_the_first_choice_and_one_without_room_is_left_out():
    boxes = [box(2, 2, 98, 22, label=f"$ very long name {n}") for n in range(50)]
    figure = draw_picture(Picture("", grey_image(25, 100), boxes))
    texts = figure.axes[0].texts
    assert 2 <= len(texts) < 50
    assert texts[0].get_text() == r"\$ very long name 0"
    places = [text.get_window_extent() for text in texts]
    assert all(places[n].count_overlaps(places[:n]) == 0 for n in range(len(places)))


@pytest.mark.parametrize(("count", "size"), [(1, (900, 375)), (3, (928, 696)), (5, (1384, 696))])
def test_page_has_a_cell_for_each_picture(count, size):
    pictures = [Picture(f"{n}.jpg", grey_image(55, 88)) for n in range(count)]
    figure = draw_pictures(pictures, "a heading")
    drawn = pixels(figure)
    assert drawn.shape[1::-1] == size
    columns = 2 if count < 5 else 3
    for n in range(count):
        x, y = 16 + n % columns * (440 + 16), 54 + 30 + n // columns * (30 + 275 + 16)
        assert (drawn[y : y + 275, x : x + 440] == 90).all()
    said = [text.get_text() for text in figure.texts]
    assert said == ["a heading", *(f"{n}.jpg" for n in range(count))]


def test_attention_map_is_bright_where_the_weight_is_and_its_point_is_marked():
    weights = np.zeros((2, 4))
    weights[1, 2] = 1
    picture = Picture("", grey_image(100, 200), (), weights, {1: (20, 20)})
    drawn = pixels(draw_picture(picture)).astype(int)
    green = drawn[..., 1]  # viridis ends in yellow, the mark of the point has less green
    y, x = np.unravel_index(green.argmax(), green.shape)
    assert abs(y / 400 - 0.75) < 0.26 and abs(x / 800 - 0.625) < 0.13
    assert np.abs(drawn[80, 80 - 7] - rgb(ORANGE)).max() < 12  # in the disc, beside its number


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
