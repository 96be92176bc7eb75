import pytest

from dropkey_core.engine import CosineMultiplier, StepMultiplier


def test_steps():
    multiplier = StepMultiplier([0.5, 0.75], gamma=0.1)
    factors = [multiplier(where) for where in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine():
    multiplier = CosineMultiplier(final=0.2)
    assert [multiplier(w) for w in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])


def test_warmup_rises_linearly_from_a_thousandth():
    multiplier = StepMultiplier([0.5], warmup=0.1)
    assert [multiplier(w) for w in (0.0, 0.05, 0.1)] == pytest.approx([0.001, 0.5005, 1.0])


def test_bad_values():
    for milestones in ([0.5, 0.5], [0.7, 0.5], [1.0], [0.0], [200]):
        with pytest.raises(ValueError, match=r"milestones must increase within \(0, 1\)"):
            StepMultiplier(milestones)
    with pytest.raises(ValueError, match=r"warmup is a part of the run in \[0, 1\), got 500"):
        CosineMultiplier(warmup=500)
