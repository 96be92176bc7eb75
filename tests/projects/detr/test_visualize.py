import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch.testing import assert_close

from projects.detr import build_model
from projects.detr.picture import PREDICTED, TRUE, Box, Picture, common_area, label_place
from projects.detr.visualize import (
    Reference,
    attention_from,
    cell_side,
    cell_span,
    detect_with_attention,
    draw_attention,
    draw_page,
    draw_picture,
)
from projects.figure import save


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def rgb(colour):
    return np.rint(255 * np.array(to_rgb(colour)))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def grey_image(height, width):
    return np.full((height, width, 3), 90, dtype=np.uint8)


def test_predicted_box_is_a_solid_line_where_it_belongs_on_an_enlarged_image():
    box = Box((20, 10, 70, 45), "cat", 0.9)
    drawn = pixels(draw_picture(Picture("", grey_image(50, 100), [box])))
    assert drawn.shape == (400, 800, 3)
    on_the_left = drawn[120:340, 160]  # x = 8 * 20, below the label
    assert_close(on_the_left, np.tile(rgb(PREDICTED), (220, 1)).astype(np.uint8), atol=12, rtol=0)
    assert (drawn[200, 180:540] == 90).all()  # inside
    assert (drawn[:50] == 90).all()  # above label and box


def test_true_box_is_dashed_and_of_another_colour():
    box = Box((20, 10, 70, 45), "cat")
    drawn = pixels(draw_picture(Picture("", grey_image(50, 100), [], [box]))).astype(int)
    on_the_left = np.abs(drawn[120:340, 160] - rgb(TRUE)).max(axis=1) < 12
    assert 0.4 < on_the_left.mean() < 0.8


def test_large_image_is_reduced():
    assert pixels(draw_picture(Picture("", grey_image(4000, 2000), []))).shape == (1600, 800, 3)


def test_picture_of_a_single_pixel():
    assert pixels(draw_picture(Picture("", grey_image(1, 1), []))).shape == (800, 800, 3)


def test_only_what_was_missed_is_named_a_second_time():
    predicted = [Box((10, 10, 40, 40), "cat", 0.987), Box((60, 60, 90, 90), "dog", 0.5)]
    true = [
        Box((12, 12, 40, 40), "cat"),  # found
        Box((60, 60, 90, 90), "cow"),  # taken for a dog
        Box((60, 10, 90, 40), "cat"),  # overlooked
        Box((10, 60, 40, 90), "cat", is_crowd=True),
    ]
    figure = draw_picture(Picture("", grey_image(100, 100), predicted, true))
    assert texts(figure) == ["cat 0.99", "dog 0.50", "cow", "cat", "cat (crowd)"]


def test_labels_stay_inside_and_hide_no_other():
    corners = [(x, y, x + 30, y + 30) for x in (-5, 5, 80) for y in (-5, 5, 75)]
    taken = []
    for box in corners:
        place = label_place((35, 10), box, (100, 100), taken)
        assert place is not None
        x0, y0, x1, y1 = place
        assert x0 >= 0 and y0 >= 0 and x1 <= 100 and y1 <= 100
        assert all(common_area(place, other) <= 0.05 * 350 for other in taken)
        taken.append(place)


def test_label_without_room_is_left_out():
    assert label_place((35, 10), (20, 20, 40, 40), (100, 100), [(0, 0, 100, 100)]) is None


def test_names_may_look_like_formulas():
    figure = draw_picture(Picture("", grey_image(50, 50), [Box((5, 5, 45, 45), "$x_{$ y^", 0.5)]))
    assert pixels(figure).shape == (800, 800, 3)


@pytest.mark.parametrize(("count", "size"), [(1, (928, 417)), (3, (928, 738)), (5, (1384, 738))])
def test_page_has_a_cell_for_each_picture(tmp_path, count, size):
    pictures = [Picture(f"{n}.jpg", grey_image(55, 88), [], []) for n in range(count)]
    figure = draw_page(pictures, "a heading")
    drawn = pixels(figure)
    assert drawn.shape[1::-1] == size
    columns = 2 if count < 5 else 3
    for n in range(count):
        x, y = 16 + n % columns * (440 + 16), 126 + n // columns * (30 + 275 + 16)
        assert (drawn[y : y + 275, x : x + 440] == 90).all()
    assert "a heading" in [text.get_text() for text in figure.texts]
    assert save(figure, tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


def test_page_explains_only_what_is_on_it():
    def legend(true):
        figure = draw_page([Picture("", grey_image(50, 50), [], true)], "")
        return [text.get_text().split(",")[0] for text in figure.legends[0].get_texts()]

    box = Box((5, 5, 45, 45), "cat")
    crowd = Box((5, 5, 45, 45), "cat", is_crowd=True)
    assert legend([]) == ["predicted"]
    assert legend([box]) == ["predicted", "true"]
    assert legend([box, crowd]) == ["predicted", "true", "crowd"]


def tiny_detr():
    torch.manual_seed(0)
    return build_model(
        backbone="resnet18",
        num_classes=3,
        num_queries=5,
        embed_dim=16,
        num_heads=2,
        num_encoder_layers=2,
        num_decoder_layers=1,
        ffn_dim=16,
        pretrained_backbone=False,
    ).eval()


def test_attention_covers_the_image_and_no_padding():
    model = tiny_detr()
    sizes = [(40, 160), (90, 70)]  # in cells of 32 pixels 2 x 5 and 3 x 3
    samples = [
        {"image": torch.randint(256, (3, *size), dtype=torch.uint8), "height": 10, "width": 10}
        for size in sizes
    ]
    detections, attention = detect_with_attention(model, samples)
    assert attention.shape == (2, 2, 3, 5, 3, 5)
    for image, (rows, columns) in zip(attention, [(2, 5), (3, 3)], strict=True):
        seen = image[:, :rows, :columns]
        assert_close(seen[..., :rows, :columns].sum((-2, -1)), torch.ones(2, rows, columns))
        assert seen[..., rows:, :].sum() == 0 and seen[..., columns:].sum() == 0
    for ours, plain in zip(detections, model(samples), strict=True):
        assert_close(ours, plain)


def test_nothing_is_left_on_the_model():
    model = tiny_detr()
    sample = {"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "height": 1, "width": 1}
    detect_with_attention(model, [sample])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attention_is_looked_up_in_the_cell_under_the_point():
    cells = torch.arange(3 * 4.0).view(3, 4)
    attention = cells[None, :, :, None, None].expand(2, 3, 4, 3, 4)  # each cell says its number
    size = (65, 128)  # the third row of cells shows one line of pixels only
    for x, y, cell in [(0, 0, 0), (1, 1, 11), (0.26, 0.48, 1), (0.26, 0.5, 5), (0.1, 0.99, 8)]:
        row = attention_from(attention, Reference(x, y, ""), size)
        assert row.shape == (3, 4)
        assert (row == cell).all(), (x, y)


@pytest.mark.parametrize(
    ("size", "cells", "side"),
    [((800, 1066), (25, 34), 32), ((33, 20), (2, 1), 32), ((65, 80), (9, 10), 8)],
)
def test_side_of_a_cell(size, cells, side):
    assert cell_side(size, cells) == side


def test_cells_may_reach_over_the_edges_of_the_image():
    assert cell_span((64, 72), (8, 9)) == (1, 1)
    assert cell_span((65, 80), (9, 10)) == (1, 72 / 65)


def test_attention_map_is_bright_where_the_weight_is():
    weights = np.zeros((2, 4))
    weights[1, 2] = 1
    picture = Picture("", grey_image(100, 200), [])
    figure = draw_attention(picture, [Reference(0.1, 0.2, "here")], [weights], (1, 1), "a heading")
    drawn = pixels(figure).astype(int)
    image_width, image_height = 900, 450
    assert drawn.shape == (60 + 30 + image_height + 16, 3 * 16 + 2 * image_width, 3)
    attention = drawn[90 : 90 + image_height, 32 + image_width : 32 + 2 * image_width]
    green = attention[..., 1]  # viridis ends in yellow, the mark of the point has less green
    y, x = np.unravel_index(green.argmax(), green.shape)
    assert abs(y / image_height - 0.75) < 0.26 and abs(x / image_width - 0.625) < 0.13
    for left in (16, 32 + image_width):  # the point is marked in the image and on its map
        mark = drawn[90 + 90, left + 90 - 7]  # in the disc, beside its number
        assert np.abs(mark - rgb(PREDICTED)).max() < 12


def test_pictures_are_the_same_each_time(tmp_path):
    picture = Picture("a", grey_image(30, 40), [Box((5, 5, 25, 25), "cat", 0.5)])
    first, second = (save(draw_page([picture], "b"), tmp_path / name) for name in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()
