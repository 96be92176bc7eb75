"""The references and the bookkeeping of the alignment benchmark."""

import pytest
import torch

from dropkey_core.analysis.alignment_benchmark import (
    FEW_KEYS,
    Case,
    Result,
    benchmark_alignment,
    markdown_table,
    over_all_masks,
    plot,
    total_variation,
)


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


@pytest.fixture(scope="module")
def results():
    return benchmark_alignment(30, [0.3], [10, 300], num_rows=3, seed=0)


def test_results_cover_every_case_and_method(results):
    cases = dict.fromkeys(r.case for r in results)
    assert [c.num_keys for c in cases] == [FEW_KEYS] * 3 + [30] * 3
    for case in cases:
        methods = [(r.method, r.effort) for r in results if r.case == case]
        assert methods == [
            *(("exact", nodes) for nodes in (1, 2, 3)),
            *(("monte carlo", samples) for samples in (10, 300)),
        ]


def test_errors_are_those_of_the_methods(results):
    for r in results:
        assert 0 <= r.mean_error <= r.worst_error
        assert r.microseconds_per_row > 0
        if r.method == "exact":
            assert r.worst_error < {1: 3e-5, 2: 1e-10, 3: 1e-13}[r.effort]
    masks = [r.mean_error for r in results if r.method == "monte carlo"]
    assert all(few > many > 1e-4 for few, many in zip(masks[::2], masks[1::2], strict=True))


def test_the_seed_decides_the_errors(results):
    again = benchmark_alignment(30, [0.3], [10, 300], num_rows=3, seed=0)
    other = benchmark_alignment(30, [0.3], [10, 300], num_rows=3, seed=1)
    assert [r.worst_error for r in again] == [r.worst_error for r in results]
    assert [r.worst_error for r in other] != [r.worst_error for r in results]


def test_table_by_hand():
    case = Case(num_keys=850, spikiness=5, drop_ratio=0.3)
    results = [
        Result(case, "exact", 1, "float32", 1e-6, 2e-6, 50.0),
        Result(case, "monte carlo", 6000, "float32", 1e-2, 2e-2, 25000.0),
    ]
    assert markdown_table(results).splitlines() == [
        "| keys | logits | ratio | exact, 1 node, float32 | 6,000 masks | speed |",
        "|---:|---:|---:|---:|---:|---:|",
        "| 850 | 5 * normal | 0.3 | 2e-06, 50 µs | 2e-02, 25,000 µs | 500x |",
    ]


def test_plot_has_a_panel_per_length_and_ratio(results, tmp_path, monkeypatch):
    figures = []
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    plot(results, tmp_path / "a.png")
    panels = figures[0].axes
    assert [p.get_title() for p in panels] == ["12 keys, drop ratio 0.3", "30 keys, drop ratio 0.3"]
    exact = panels[1].lines[0]
    drawn = [r for r in results if (r.case.num_keys, r.case.spikiness) == (30, 1)][:3]
    assert exact.get_xdata().tolist() == [r.microseconds_per_row for r in drawn]


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_ratios_with_nothing_to_average_are_refused(ratio):
    with pytest.raises(ValueError, match=f"drop_ratio must be.*got {ratio:g}"):
        benchmark_alignment(30, [0.3, ratio], [10], num_rows=1, seed=0)
