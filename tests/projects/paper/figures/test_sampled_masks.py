"""The picture of sampled masks: what is drawn, where the queries lie, what is refused."""

import pytest
import torch
from matplotlib.image import imread

from dropkey_core.attention.patterns import Block, Cross, Key
from projects.paper.figures.sampled_masks import (
    draw_masks,
    parse_pattern,
    sample_dropped,
    spread_over,
)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("key", Key()), ("block:3", Block(3, grid=(4, 6))), ("cross:1", Cross(1, grid=(4, 6)))],
)
def test_units_by_name(text, pattern):
    assert parse_pattern(text, (4, 6)) == pattern


@pytest.mark.parametrize("text", ["blok:2", "block", "block:", "block:-1", "cross:two", "weight"])
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match=f"pattern must be key, block:SIZE or .*; got {text}"):
        parse_pattern(text, (4, 6))


def test_patterns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="size must be at most 4 on a grid of 4 x 6, got 5"):
        parse_pattern("block:5", (4, 6))


@pytest.mark.parametrize("text", ["key", "block:2", "cross:1"])
def test_what_is_drawn_follows_seed_and_ratio(text):
    grid = (4, 6)
    pattern = parse_pattern(text, grid)
    dropped = sample_dropped(pattern, grid, 0.5, 8, seed=1)
    assert dropped.shape == (8, 4, 6)
    assert torch.equal(dropped, sample_dropped(pattern, grid, 0.5, 8, seed=1))
    assert not torch.equal(dropped, sample_dropped(pattern, grid, 0.5, 8, seed=2))
    assert not sample_dropped(pattern, grid, 0.0, 8, seed=1).any()


def test_rows_of_the_grid_are_rows_of_the_picture():
    """Crosses of one patch are whole rows and columns, which a transposed grid would break."""
    dropped = sample_dropped(parse_pattern("cross:1", (3, 7)), (3, 7), 0.2, 50, seed=0)
    rows, columns = dropped.all(2), dropped.all(1)
    assert torch.equal(dropped, rows.unsqueeze(2) | columns.unsqueeze(1))


def test_queries_lie_evenly():
    assert spread_over((2, 4), 2) == [(0, 2), (1, 2)]
    assert spread_over((2, 2), 4) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_picture_is_written(tmp_path):
    """Its width in pixels grows with the queries, its height with the units."""
    sizes = []
    for units, queries in ((["key"], 2), (["key", "block:2"], 3)):
        path = tmp_path / "new" / f"{queries}.png"
        draw_masks(units, (4, 4), 0.3, queries, 0, path)
        sizes.append(imread(path).shape)
    assert sizes[1][0] > sizes[0][0]
    assert sizes[1][1] > sizes[0][1]


@pytest.mark.parametrize("ratio", [0.4, 0.0])
def test_lost_patches_are_listed(tmp_path, ratio):
    draw_masks(["key", "cross:1"], (3, 4), ratio, 2, 5, tmp_path / "masks.png")
    header, *lines = (tmp_path / "masks.csv").read_text().splitlines()
    assert header == "pattern,query_row,query_column,row,column"
    expected = []
    for text in ("key", "cross:1"):
        dropped = sample_dropped(parse_pattern(text, (3, 4)), (3, 4), ratio, 2, seed=5)
        for query, (row, column) in enumerate(spread_over((3, 4), 2)):
            lost = dropped[query].nonzero().tolist()
            expected += [f"{text},{row},{column},{r},{c}" for r, c in lost]
    assert lines == expected and bool(lines) == bool(ratio)
