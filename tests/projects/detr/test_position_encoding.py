import math

import pytest
import torch

from projects.detr.position_encoding import SinePositionEncoding


def test_values_by_hand():
    """A map of 2 x 4 cells, 4 channels: one sine and one cosine for row and column each."""
    encoding = SinePositionEncoding(4)(torch.zeros(1, 2, 4, dtype=torch.bool))
    assert encoding.shape == (1, 2, 4, 4)
    row, column = 2 * math.pi * 1 / 2, 2 * math.pi * 3 / 4  # of the cell (0, 2), counted from 1
    expected = [math.sin(row), math.cos(row), math.sin(column), math.cos(column)]
    torch.testing.assert_close(encoding[0, 0, 2], torch.tensor(expected), atol=1e-5, rtol=0)


def test_wavelengths_grow_up_to_the_temperature():
    encoding = SinePositionEncoding(8, temperature=100.0)
    torch.testing.assert_close(encoding.wavelengths, torch.tensor([1.0, 10.0]))


def test_padding_does_not_move_the_image():
    """Cells of an image are encoded as if it were alone."""
    padding_mask = torch.ones(2, 4, 5, dtype=torch.bool)
    padding_mask[0, :3, :2] = False
    padding_mask[1] = False
    encoding = SinePositionEncoding(8)
    alone = encoding(torch.zeros(1, 3, 2, dtype=torch.bool))
    assert torch.equal(encoding(padding_mask)[0, :3, :2], alone[0])
    assert encoding(padding_mask).isfinite().all()


def test_nothing_to_save():
    assert not SinePositionEncoding(8).state_dict()


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="embed_dim must be divisible by 4, got 6"):
        SinePositionEncoding(6)


def test_shortest_wave_of_coordinates_is_a_quarter_of_the_side():
    encoding = SinePositionEncoding(16, temperature=16.0)
    here, later, other = encoding.of_coordinates(torch.tensor([0.1, 0.35, 0.225]))
    torch.testing.assert_close(here[:2], later[:2], atol=1e-5, rtol=0)
    torch.testing.assert_close(here[:2], -other[:2], atol=1e-5, rtol=0)  # half a wave further
    assert not torch.allclose(here[2:4], later[2:4], atol=1e-2)
