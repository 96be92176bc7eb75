"""What the attention benchmark compares, and how it tells."""

import attention as benchmark
import pytest
import torch
import torch.nn.functional as F
from attention import (
    FLOOR,
    OURS,
    AttentionShape,
    algorithm_1,
    attention_calls,
    contenders,
    explicit_dropout,
    gradients,
    module_calls,
    modules,
)
from timing import Measurement

TINY = AttentionShape("tiny", 2, 3, 7, 4)


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 40, 8) for _ in range(3)]


def test_with_next_to_no_dropping_all_are_the_floor(qkv):
    expected = F.scaled_dot_product_attention(*qkv)
    for name, attend in contenders(1e-9).items():
        torch.testing.assert_close(attend(*qkv), expected, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_algorithm_1_by_its_mask(qkv, dtype):
    """The same draw as the function's, cut out of plain weights in float64."""
    query, key, value = (x.to(dtype) for x in qkv)
    torch.manual_seed(1)
    out = algorithm_1(query, key, value, 0.3)
    torch.manual_seed(1)
    kept = 1 - torch.bernoulli(torch.ones(2, 3, 40, 40, dtype=dtype) * 0.3).double()
    query, key, value = (x.double() for x in (query, key, value))
    exponentials = (query @ key.mT / 8**0.5).exp() * kept
    expected = exponentials / exponentials.sum(-1, keepdim=True) @ value
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


def test_explicit_dropout_by_its_mask(qkv):
    query, key, value = qkv
    torch.manual_seed(1)
    out = explicit_dropout(query, key, value, 0.3)
    torch.manual_seed(1)
    factors = F.dropout(torch.ones(2, 3, 40, 40), 0.3)
    expected = ((query @ key.mT / 8**0.5).softmax(-1) * factors) @ value
    torch.testing.assert_close(out, expected)


def test_modules_differ_in_what_they_drop_only():
    made = modules(TINY, 0.3)
    x = torch.randn(2, 7, 12)
    outputs = [module.eval()(x, x, x, need_weights=False)[0] for module in made.values()]
    for out in outputs[1:]:
        torch.testing.assert_close(out, outputs[0], atol=1e-6, rtol=1e-5)
    training = [module.train()(x, x, x, need_weights=False)[0] for module in made.values()]
    changed = [not torch.allclose(out, outputs[0], atol=1e-4) for out in training]
    assert changed == [False, True, True]


@pytest.mark.parametrize("calls_of", [attention_calls, module_calls])
def test_backward_passes_reach_all_inputs(calls_of):
    """A contender that were not differentiated would win."""
    for call in calls_of(TINY, 0.3, torch.empty(0, dtype=torch.float64)).values():
        found = gradients(*call)
        assert len(found) >= 3
        assert all(gradient.dtype == torch.float64 for gradient in found)
        assert all((gradient != 0).any() for gradient in found)


def test_long_shapes_are_measured_without_modules(monkeypatch):
    monkeypatch.setattr(benchmark, "MOST_TOKENS_OF_MODULES", 6)
    for results in benchmark.benchmark_attention({"tiny": TINY}, repeats=1):
        assert [len(contenders) for contenders in results.values()] == [5]


def test_table_and_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(benchmark.SHAPES, "vit", TINY)
    plot = tmp_path / "new" / "a.png"
    options = ["--shapes", "vit", "--dtype", "bfloat16", "--repeats", "2", "--plot", str(plot)]
    assert benchmark.main(options) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| shape | attention | forward, ms | forward + backward, ms |")
    assert len(table) == 2 + 5 + 3
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_table_by_hand():
    """Times are per call: 0.4 s for two calls are 200 ms. The slow turn hits both."""
    forward = {FLOOR: Measurement(2, [0.2, 0.2, 0.4]), OURS: Measurement(2, [0.3, 0.3, 0.6])}
    training = {
        FLOOR: Measurement(2, [0.4, 0.4, 4.0], peak_memory=2**20),
        OURS: Measurement(2, [0.5, 0.5, 5.0], peak_memory=3 * 2**20),
    }
    assert benchmark.table({"tiny": forward}, {"tiny": training}).splitlines()[2:] == [
        f"| tiny | {FLOOR} | 100.0 | 200.0 | 1.00 | 1 |",
        f"| tiny | {OURS} | 150.0 | 250.0 | 1.25 | 3 |",
    ]


def test_plot_where_memory_is_not_known(tmp_path):
    training = {name: Measurement(1, [1.0]) for name in contenders(0.3)}
    benchmark.plot({"tiny": training}).savefig(tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_on_a_gpu_flex_takes_part():
    assert "DropKey, FlexAttention" in contenders(0.3, torch.device("cuda"))
    assert "DropKey, FlexAttention" not in contenders(0.3)


def test_busy_beside_quiet(capsys, monkeypatch):
    monkeypatch.setitem(benchmark.SHAPES, "vit", TINY)
    monkeypatch.setattr("timing.os.cpu_count", lambda: 1)
    assert benchmark.main(["--shapes", "vit", "--repeats", "1", "--busy", "1"]) == 0
    quiet, busy = capsys.readouterr().out.split("\nThe same beside 1 spinning processes:\n\n")
    assert quiet.splitlines()[:2] == busy.splitlines()[:2]
    assert len(quiet.splitlines()) == len(busy.splitlines()) == 2 + 5 + 3
