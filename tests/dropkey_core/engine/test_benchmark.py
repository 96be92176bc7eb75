import torch

from dropkey_core.engine.benchmark import Measurement, markdown_table, measure, peak_memory

CPU = torch.device("cpu")


def test_contenders_take_turns():
    calls = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    measured = measure(steps, 4, 3, CPU)
    assert "".join(calls[-6:]) == "ababab"
    assert [len(result.seconds) for result in measured.values()] == [3, 3]


def test_three_turns_are_enough_of_what_takes_long():
    calls = []
    step = {"a": lambda: calls.append("a")}
    assert len(measure(step, 1, 9, CPU, enough=0.0)["a"].seconds) == 3
    assert len(measure(step, 1, 2, CPU, enough=0.0)["a"].seconds) == 2


def test_speed_is_the_median_of_ratios():
    """One slow turn of the machine, which hits both, changes nothing."""
    first = Measurement(4, seconds=[2.0, 2.0, 20.0])
    second = Measurement(4, seconds=[1.0, 1.0, 10.0], peak_memory=3 * 2**20)
    assert second.speed_over(first) == 2.0
    assert second.items_per_second == 4.0
    assert second.seconds_per_item == 0.25
    assert markdown_table({"job": {"a": first, "b": second}}).splitlines()[2:] == [
        "| job | a | 2.00 |  | 1.00x |",
        "| job | b | 4.00 | 3 | 2.00x |",
    ]


def test_memory_of_a_step():
    """A step that fills 64 MiB and frees them again; None where the system does not tell."""
    needed = peak_memory(lambda: torch.ones(16 * 2**20).sum(), CPU)
    assert needed is None or 60 * 2**20 < needed < 90 * 2**20
