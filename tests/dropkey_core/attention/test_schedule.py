"""Drop ratios per layer against the table in their docstring."""

import itertools

import pytest
import torch
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
        (lambda layer, num_layers: layer**2 / num_layers, [0.0, 0.1, 0.4, 0.9]),
    ],
)
def test_ratios_by_hand(schedule, expected):
    assert drop_ratios(4, 0.4, schedule) == pytest.approx(expected)


def test_the_papers_schedule_is_the_default_and_a_list_needs_none():
    assert drop_ratios(2, 0.4) == [0.4, 0.2]
    assert drop_ratios(3, [0.1, 0.3, 0.0]) == [0.1, 0.3, 0.0]
    assert drop_ratios(3, torch.tensor([0.5, 0.25, 0.0])) == [0.5, 0.25, 0.0]


@given(
    schedule=st.sampled_from(SCHEDULES),
    drop_ratio=st.floats(0, 1, exclude_max=True),
    num_layers=st.integers(1, 200),
)
def test_between_the_documented_ends(schedule, drop_ratio, num_layers):
    """Monotone from the first to the last value of the table, to rounding; alone, the ratio."""
    ratios = drop_ratios(num_layers, drop_ratio, schedule)
    low = drop_ratio if schedule == "constant" else drop_ratio / num_layers
    if schedule == "linear_increasing":
        ratios = ratios[::-1]
    assert ratios[0] == pytest.approx(drop_ratio)
    assert ratios[-1] == pytest.approx(low)
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(ratios))
    assert all(0 <= r < 1 for r in ratios)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((3, 1.5), r"drop_ratio must be in \[0, 1\), got 1.5"),
        ((3, 1.0), r"drop_ratio must be in \[0, 1\), got 1.0"),
        ((3, -0.1), r"drop_ratio must be in \[0, 1\), got -0.1"),
        ((3, float("nan")), r"drop_ratio must be in \[0, 1\), got nan"),
        ((3, "0.1"), r"drop_ratio must be a number in \[0, 1\), got '0.1'"),
        ((3, None), r"drop_ratio must be a number in \[0, 1\), got None"),
        ((2, [0.1, 1.2]), r"drop_ratio must be in \[0, 1\), got 1.2"),
        ((2, 0.5, lambda layer, num_layers: 2.0), r"drop_ratio must be in \[0, 1\), got 1.0"),
        ((3, [0.1, 0.2]), "drop_ratio must have one ratio for each of 3 layers, got 2"),
        ((2, [0.1, 0.2], "constant"), "schedule must be left out .* got 'constant'"),
        ((3, 0.3, "lineer"), r"constant, linear_decreasing, .* a callable .* got 'lineer'"),
        ((3, 0.3, [1.0, 0.5, 0.1]), r"schedule must be one of .* got \[1.0, 0.5, 0.1\]"),
        ((0, 0.3), "num_layers must be an integer of at least 1, got 0"),
        (("constant", 0.3, 3), "num_layers must be an integer of at least 1, got 'constant'"),
    ],
)
def test_what_is_refused_in_one_line(arguments, text):
    with pytest.raises(ValueError, match=text) as error:
        drop_ratios(*arguments)
    assert "\n" not in str(error.value)
