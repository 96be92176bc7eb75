"""The references and the bookkeeping of the alignment benchmark."""

import alignment as benchmark
import pytest
import torch
from alignment import (
    FEW_KEYS,
    Case,
    benchmark_alignment,
    over_all_masks,
    plot,
    table,
    total_variation,
)
from timing import Measurement

pytestmark = pytest.mark.slow

METHODS = {
    "exact, 1 node, float32": 3e-5,
    "exact, 2 nodes, float64": 1e-10,
    "exact, 3 nodes, float64": 1e-13,
    "10 masks": 1.0,
    "1,000 masks": 0.2,
}  # and what their errors are below


def test_all_masks_of_two_keys_by_hand():
    """Both kept, one kept, or none, which keeps both."""
    r = 0.4
    weights = torch.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=torch.float64)
    by_hand = ((1 - r) ** 2 + r**2) * weights + (1 - r) * r
    torch.testing.assert_close(over_all_masks(weights.log(), r), by_hand)


def test_all_masks_of_three_keys_by_hand():
    r = 0.25
    a, b, c = 0.6, 0.3, 0.1
    first = (
        ((1 - r) ** 3 + r**3) * a + (1 - r) ** 2 * r * (a / (a + b) + a / (a + c)) + (1 - r) * r**2
    )
    logits = torch.tensor([[a, b, c]], dtype=torch.float64).log()
    assert over_all_masks(logits, r)[0, 0].item() == pytest.approx(first, abs=1e-12)


def test_total_variation_by_hand():
    weights = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    reference = torch.tensor([[0.4, 0.4, 0.2], [0.0, 1.0, 0.0]], dtype=torch.float64)
    error = total_variation(weights, reference)
    torch.testing.assert_close(error, torch.tensor([0.1, 1.0]).double(), atol=1e-7, rtol=0)


@pytest.fixture(autouse=True, scope="module")
def _few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "NUM_ROWS", 4)
        yield


@pytest.fixture(scope="module")
def results(_few_rows):
    return benchmark_alignment(30, [0.3], [10, 1000], repeats=1)


def test_errors_are_those_of_the_methods(results):
    assert [case.num_keys for case in results] == [FEW_KEYS] * 3 + [30] * 3
    for measured in results.values():
        assert list(measured) == list(METHODS)
        for method, bound in METHODS.items():
            assert 0 <= measured[method].worst_error < bound
        few, many = measured["10 masks"], measured["1,000 masks"]
        assert few.worst_error > many.worst_error > 1e-4


def test_table_by_hand():
    measured = {
        "exact, 1 node, float32": Measurement(2, [100e-6], worst_error=2e-6),
        "6,000 masks": Measurement(2, [50000e-6], worst_error=2e-2),
    }
    case = Case(num_keys=850, spikiness=5, drop_ratio=0.3)
    assert table({case: measured}).splitlines() == [
        "| keys | logits | ratio | exact, 1 node, float32 | 6,000 masks | speed |",
        "|---:|---:|---:|---:|---:|---:|",
        "| 850 | 5 * normal | 0.3 | 2e-06, 50 µs | 2e-02, 25,000 µs | 500x |",
    ]


def test_plot_has_a_panel_per_length_and_ratio(results):
    panels = plot(results).axes
    assert [p.get_title() for p in panels] == ["12 keys, drop ratio 0.3", "30 keys, drop ratio 0.3"]
    exact, masks, *_ = panels[1].lines
    drawn = list(results[Case(30, 1, 0.3)].values())
    assert [1e6 * m.seconds_per_item for m in drawn] == [*exact.get_xdata(), *masks.get_xdata()]
    assert [m.worst_error for m in drawn[3:]] == masks.get_ydata().tolist()


def test_one_command_makes_table_and_plot(tmp_path, capsys):
    small = ["--num-keys", "20", "--samples", "30", "10", "--ratios", "0.5", "--repeats", "1"]
    assert benchmark.main([*small, "--plot", str(tmp_path / "d.png")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("| keys | logits | ratio | exact, 1 node, float32 |")
    assert "| 10 masks | 30 masks |" in out[0]
    assert len(out) == 2 + 2 * 3
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
