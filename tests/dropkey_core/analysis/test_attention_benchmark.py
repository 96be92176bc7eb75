"""What the attention benchmark compares, and how it tells."""

import pytest
import torch
import torch.nn.functional as F

from dropkey_core.analysis import attention_benchmark as benchmark
from dropkey_core.analysis.attention_benchmark import (
    FLOOR,
    OURS,
    AttentionShape,
    Result,
    algorithm_1,
    contenders,
    explicit_dropout,
    modules,
)
from dropkey_core.engine.benchmark import Measurement
from dropkey_core.engine.errors import UserError

TINY = AttentionShape("tiny", 2, 3, 7, 4)


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 40, 8) for _ in range(3)]


@pytest.fixture
def _tiny(monkeypatch):
    monkeypatch.setattr(benchmark, "SHAPES", {"tiny": TINY})


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


def test_it_measures_both_groups(_tiny):
    results = benchmark.benchmark_attention(["tiny"], repeats=2)
    assert [len(result.training) for result in results] == [5, 3]
    for result in results:
        assert list(result.forward) == list(result.training)
        for measurement in (*result.forward.values(), *result.training.values()):
            assert len(measurement.seconds) == 2


def test_backward_passes_reach_all_inputs():
    """A contender that were not differentiated would win."""
    for passes in (benchmark._attention_passes, benchmark._module_passes):
        _, training = passes(TINY, 0.3, torch.device("cpu"), torch.float32)
        for step in training.values():
            gradients = step()
            assert len(gradients) >= 3
            assert all((gradient != 0).any() for gradient in gradients)


def test_long_shapes_are_measured_without_modules(_tiny, monkeypatch):
    monkeypatch.setattr(benchmark, "MOST_TOKENS_OF_MODULES", 6)
    assert len(benchmark.benchmark_attention(["tiny"], repeats=1)) == 1


@pytest.fixture
def result():
    forward = {FLOOR: Measurement(2, [0.2, 0.2, 0.4]), OURS: Measurement(2, [0.3, 0.3, 0.6])}
    training = {
        FLOOR: Measurement(2, [0.4, 0.4, 4.0], peak_memory=2**20),
        OURS: Measurement(2, [0.5, 0.5, 5.0], peak_memory=3 * 2**20),
    }
    return Result(TINY, forward, training)


def test_table_by_hand(result):
    """Times are per call: 0.4 s for two calls are 200 ms. The slow turn hits both."""
    assert benchmark.markdown_table([result]).splitlines()[2:] == [
        f"| tiny: B2 H3 N7 D4 | {FLOOR} | 100.0 | 200.0 | 1.00 | 1 |",
        f"| tiny: B2 H3 N7 D4 | {OURS} | 150.0 | 250.0 | 1.25 | 3 |",
    ]


def test_plain_values(result):
    rows = benchmark.as_plain_values([result])
    assert [(row["pass"], row["attention"]) for row in rows] == [
        ("forward", FLOOR),
        ("forward", OURS),
        ("training", FLOOR),
        ("training", OURS),
    ]
    assert rows[3]["times_the_floor"] == pytest.approx(1.25)
    assert rows[3]["seconds_per_call"] == 0.25
    assert rows[3]["seconds_per_turn"] == [0.5, 0.5, 5.0]
    assert rows[1]["peak_memory_bytes"] is None


def test_plot_of_one_shape_with_memory_or_without(result, tmp_path):
    benchmark.plot([result], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for measurement in result.training.values():
        measurement.peak_memory = None
    benchmark.plot([result], tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shapes": ["dert"]}, "shape must be one of detr, .* got 'dert'"),
        ({"dtype": "float8"}, "dtype must be one of float32, .* got 'float8'"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"drop_ratio": 1.0}, r"drop_ratio must be in \(0, 1\), got 1.0"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        benchmark.benchmark_attention(**given)


def test_other_devices_are_refused():
    with pytest.raises(UserError, match="--device must be cpu or cuda, got 'tpu'"):
        benchmark.benchmark_attention(device="tpu")
