"""Drop ratios per layer against the table in their docstring."""

import pytest

from dropkey_core import drop_ratios


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.4, 0.4, 0.4, 0.4]),
        ("linear_decreasing", [0.4, 0.3, 0.2, 0.1]),
        ("linear_increasing", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_ratios_by_hand(schedule, expected):
    assert drop_ratios(schedule, 0.4, 4) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "linear_decreasing", "linear_increasing"])
def test_one_layer_gets_the_ratio_itself(schedule):
    assert drop_ratios(schedule, 0.3, 1) == [0.3]


@pytest.mark.parametrize("schedule", ["constant", "linear_decreasing", "linear_increasing"])
def test_ratio_zero_stays_zero(schedule):
    assert drop_ratios(schedule, 0.0, 3) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("ratio", [1.5, 1.0, -0.1, float("nan")])
def test_ratio_outside_is_refused_with_its_value(ratio):
    with pytest.raises(ValueError, match=rf"drop_ratio must be in \[0, 1\), got {ratio}"):
        drop_ratios("constant", ratio, 3)


def test_unknown_schedule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"constant, linear_decreasing, .* got 'lineer'"):
        drop_ratios("lineer", 0.3, 3)


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        drop_ratios("constant", 0.3, 0)
