import numpy as np
import pytest

from projects.drawing import (
    ORANGE,
    SKY,
    YELLOW,
    Marking,
    Picture,
    draw_picture,
    draw_pictures,
    is_free,
    label_places,
    legend_entry,
    overlap,
    rgb,
)


def pixels(image):
    return np.asarray(image).astype(int)


def has_colour(drawn, colour):
    return np.abs(drawn - rgb(colour)).max(axis=-1) < 12


def grey_image(height, width):
    return np.full((height, width, 3), 90, dtype=np.uint8)


def box(*corners, label="cat 0.90", colour=ORANGE, **more):
    return Marking([corners], [colour], label, colour, **more)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [({}, 1, 1), ({"is_true": True}, 0.4, 0.8), ({"is_crowd": True}, 0.1, 0.6)],
)
def test_box_is_a_line_where_it_belongs_on_an_enlarged_image(kind, least, most):
    """A solid one, a dashed one if it is true, a dotted one around a crowd."""
    marking = box(20, 10, 70, 45, colour=SKY, **kind)
    drawn = pixels(draw_picture(Picture("", grey_image(50, 100), [marking])))
    assert drawn.shape == (400, 800, 3)
    assert least <= has_colour(drawn[120:340, 160], SKY).mean() <= most  # x = 8 * 20
    assert (drawn[:50] == 90).all()  # above label and box
    assert (drawn[200, 180:540] == 90).all() != ("is_crowd" in kind)  # which is hatched


def test_line_leads_from_middle_to_middle():
    pair = Marking([(10, 10, 30, 30), (60, 10, 80, 30)], [ORANGE, SKY], label_colour=YELLOW)
    drawn = pixels(draw_picture(Picture("", grey_image(50, 100), [pair])))
    assert has_colour(drawn[160, 170:550], YELLOW).sum() > 350
    assert (drawn[160, :70] == 90).all() and (drawn[160, 650:] == 90).all()


def test_lines_along_the_edges_of_the_image_are_whole():
    picture = Picture("", grey_image(100, 100), [box(-5, 0, 120, 100, label="")])
    drawn = pixels(draw_picture(picture))
    for edge in (drawn[400, :3], drawn[400, -3:], drawn[:3, 400], drawn[-3:, 400]):
        assert has_colour(edge, ORANGE).any()


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((4000, 2000), (1600, 800)), ((1, 1), (800, 800)), ((900, 1200), (900, 1200))],
)
def test_only_small_and_large_images_are_resized(size, drawn):
    marked = Picture("", grey_image(*size), [box(0, 0, 1, 1)])
    assert pixels(draw_picture(marked)).shape == (*drawn, 3)


def test_labels_stay_inside_and_hide_no_other():
    taken = np.zeros((0, 4))
    for x, y in [(x, y) for x in (-5, 5, 80) for y in (-5, 5, 75)]:
        places = list(label_places((35, 10), (x, y, x + 30, y + 30), (100, 100)))
        assert all(min(place[:2]) >= 0 and max(place[2:]) < 100 for place in places)
        taken = np.vstack([taken, next(p for p in places if is_free(p, taken))])


def test_first_label_has_the_first_choice_and_one_without_room_is_left_out():
    """Fifty boxes at one place, their labels each of another colour."""
    colours = [f"#{n:02X}8080" for n in range(0, 250, 5)]
    boxes = [box(2, 2, 98, 22, label="$ very long name", colour=colour) for colour in colours]
    drawn = pixels(draw_picture(Picture("", grey_image(25, 100), boxes)))
    shown = [(np.abs(drawn - rgb(colour)).max(axis=2) == 0).sum() > 1000 for colour in colours]
    assert shown[0] and 2 <= sum(shown) < 50
    assert shown == sorted(shown, reverse=True)


@pytest.mark.parametrize(("count", "size"), [(3, (928, 696)), (5, (1384, 696))])
def test_page_has_a_cell_for_each_picture(count, size):
    pictures = [Picture(f"{n}.jpg", grey_image(55, 88)) for n in range(count)]
    drawn = pixels(draw_pictures(pictures, "a heading"))
    assert drawn.shape[1::-1] == size
    columns = 2 if count < 5 else 3
    for n in range(count):
        x, y = 16 + n % columns * (440 + 16), 54 + 30 + n // columns * (30 + 275 + 16)
        assert (drawn[y : y + 275, x : x + 440] == 90).all()


def test_a_single_picture_is_as_large_on_a_page_as_alone():
    drawn = pixels(draw_pictures([Picture("a.jpg", grey_image(50, 100))], "a heading"))
    assert (drawn[84:484, 16:816] == 90).all()


def test_attention_map_is_bright_where_the_weight_is_and_its_point_is_marked():
    weights = np.zeros((2, 4))
    weights[1, 2] = 1
    picture = Picture("", grey_image(100, 200), (), weights, {1: (20, 20)})
    drawn = pixels(draw_picture(picture))
    green = drawn[..., 1]  # viridis ends in yellow, the mark of the point has less green
    y, x = np.unravel_index(green.argmax(), green.shape)
    assert abs(y / 400 - 0.75) < 0.26 and abs(x / 800 - 0.625) < 0.13
    assert has_colour(drawn[80, 80 - 7], ORANGE)  # in the disc, beside its number


def test_legend_shows_a_marking_without_its_label():
    entry = legend_entry("found", box(4, 3, 44, 16))
    assert entry.caption == "found" and entry.pixels.shape == (20, 48, 3)
    assert has_colour(pixels(entry.pixels)[3, 10:40], ORANGE).all()
    assert (entry.pixels[9, 10:38] == 255).all()


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
