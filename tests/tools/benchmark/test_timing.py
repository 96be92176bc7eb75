import subprocess

import pytest
import torch
from timing import CPU, Measurement, busy_cores, measure, peak_memory


def test_contenders_take_turns():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    measured = measure(steps, 4, 3)
    assert "".join(calls[-6:]) == "ababab"
    assert [len(result.seconds) for result in measured.values()] == [3, 3]


def test_the_result_is_that_of_the_first_run():
    numbers = iter(range(9))
    assert measure({"a": lambda: next(numbers)}, 1, 2)["a"].result == 0


def test_speed_is_the_median_of_ratios():
    """Of 2, 1 and 4: neither their mean nor the ratio of the median times."""
    first = Measurement(4, seconds=[2.0, 4.0, 20.0])
    second = Measurement(4, seconds=[1.0, 4.0, 5.0])
    assert second.speed_over(first) == 2.0
    assert second.seconds_per_item == 1.0


def test_memory_of_a_step():
    """A step that fills 64 MiB and frees them again; None where the system does not tell."""
    needed = peak_memory(lambda: torch.ones(16 * 2**20).sum(), CPU)
    assert needed is None or 60 * 2**20 < needed < 90 * 2**20


def test_busy_processes_live_as_long_as_the_block(monkeypatch):
    started = []

    class Process(subprocess.Popen):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr("timing.os.cpu_count", lambda: 2)
    monkeypatch.setattr("timing.subprocess.Popen", Process)
    with pytest.raises(ZeroDivisionError), busy_cores(2) as count:
        assert count == len(started) == 4
        assert all(process.poll() is None for process in started)
        raise ZeroDivisionError
    assert all(process.poll() is not None for process in started)
