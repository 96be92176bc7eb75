"""Drop ratios per layer against the table in their docstring."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropkey_core import drop_ratios

SCHEDULES = ["constant", "linear_decreasing", "linear_increasing", "cosine", "exponential"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.4, 0.4, 0.4, 0.4]),
        ("linear_decreasing", [0.4, 0.3, 0.2, 0.1]),
        ("linear_increasing", [0.1, 0.2, 0.3, 0.4]),
        ("cosine", [0.4, 0.325, 0.175, 0.1]),  # halfway points of a cosine: 3/4 and 1/4 of 0.3
        ("exponential", [0.4, 0.4 / 4 ** (1 / 3), 0.4 / 4 ** (2 / 3), 0.1]),
    ],
)
def test_ratios_by_hand(schedule, expected):
    assert drop_ratios(schedule, 0.4, 4) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_layer_gets_the_ratio_itself(schedule):
    assert drop_ratios(schedule, 0.3, 1) == [0.3]


@given(
    schedule=st.sampled_from(SCHEDULES),
    ratio=st.floats(0, 1, exclude_max=True),
    num_layers=st.integers(1, 200),
)
def test_between_the_documented_ends(schedule, ratio, num_layers):
    """Monotone from the first to the last value of the table, to rounding."""
    ratios = drop_ratios(schedule, ratio, num_layers)
    low = ratio if schedule == "constant" else ratio / num_layers
    if schedule == "linear_increasing":
        ratios = ratios[::-1]
    assert ratios[0] == pytest.approx(ratio)
    assert ratios[-1] == pytest.approx(low)
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(ratios))
    assert all(0 <= r < 1 for r in ratios)


@pytest.mark.parametrize("schedule", SCHEDULES)
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
