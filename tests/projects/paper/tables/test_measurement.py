import pytest
import torch
from torch import nn

from dropkey_core import apply_dropkey
from dropkey_core.attention import Expected, MonteCarlo, expected_attention
from dropkey_core.engine import UserError
from projects.paper.figures.occlusion import occlusion_curve
from projects.paper.tables import aligned, occluded
from projects.paper.tables.measurement import check_measurement


class Reader(nn.Module):
    """One block of attention over a sample's tokens (N, C); its output is the mean token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 1, 8, 0.0, batch_first=True, norm_first=True),
            1,
            enable_nested_tensor=False,
        )
        apply_dropkey(self, 0.4)

    def forward(self, samples):
        tokens = torch.stack([sample["tokens"] for sample in samples])
        return [{"mean": mean} for mean in self.layers(tokens).mean(1)]


class Mean:
    """Mean of all outputs; its reset is counted on."""

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += [output["mean"].sum().item() for output in outputs]

    def evaluate(self):
        return {"cls": {"top1": sum(self.seen) / len(self.seen)}}


@pytest.fixture
def experiment():
    generator = torch.Generator().manual_seed(1)
    samples = [{"tokens": torch.randn(6, 4, generator=generator)} for _ in range(4)]
    return Reader().eval(), [samples[:3], samples[3:]], Mean()


def attention_of_the_block(model, tokens):
    """Logits written out: layer norm, projection, scaled product."""
    layer = model.layers.layers[0]
    normalised = layer.norm1(tokens)
    query, key, value = layer.self_attn.in_proj_weight.chunk(3)
    logits = normalised @ query.T @ (normalised @ key.T).T / 2.0  # sqrt(4)
    return logits, normalised @ value.T


def test_aligned_averages_over_masks(experiment):
    """Against the block with the expected weights, computed by hand."""
    model, loader, evaluator = experiment
    found = aligned(model, loader, evaluator, 0, Expected())["cls/top1"]
    layer, sums = model.layers.layers[0], []
    for sample in (sample for batch in loader for sample in batch):
        tokens = sample["tokens"]
        logits, values = attention_of_the_block(model, tokens)
        weights = expected_attention(logits.softmax(-1), 0.4)
        mixed = tokens + layer.self_attn.out_proj(weights @ values)
        sums.append((mixed + layer._ff_block(layer.norm2(mixed))).mean(0).sum().item())
    assert found == pytest.approx(sum(sums) / len(sums), abs=1e-6)


def test_monte_carlo_depends_on_the_seed_alone(experiment):
    first, again, other = (
        aligned(*experiment, seed, MonteCarlo(8))["cls/top1"] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_occluded_sums_up_the_curve(experiment):
    found = occluded(*experiment, 3, "cls/top1", [0.0, 0.5], num_runs=2)
    points = occlusion_curve(*experiment, [0.0, 0.5], 2, 3)
    whole, _, one, two = (point.metrics["cls/top1"] for point in points)
    assert found == {
        "occluded_0/cls/top1": whole,
        "occluded_0/cls/top1_spread": 0.0,
        "occluded_50/cls/top1": pytest.approx((one + two) / 2),
        "occluded_50/cls/top1_spread": pytest.approx(abs(one - two) / 2**0.5),
    }
    assert one != two


def test_occluded_by_an_unknown_metric(experiment):
    with pytest.raises(UserError, match=r"measure.metric: no 'cls/top'; nearest is 'cls/top1'"):
        occluded(*experiment, 0, "cls/top", [0.0], num_runs=1)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({}, r"measure._target_ must be a dotted name"),
        ({"_target_": "projects.paper.tables.alinged"}, "cannot import.*nearest is 'aligned'"),
        ({"_target_": "projects.paper.tables.occluded"}, "measure.metric is missing"),
        (
            {"_target_": "projects.paper.tables.occluded", "metric": "m", "runs": 3},
            "unknown key 'measure.runs'",
        ),
        (
            {"_target_": "projects.paper.tables.aligned",
             "inference": {"_target_": "dropkey_core.attention.MonteCarlo", "smples": 3}},
            r"unknown key 'measure.inference.smples'; nearest is 'measure.inference.samples'",
        ),
    ],
)  # fmt: skip
def test_wrong_measurements(measure, message):
    with pytest.raises(UserError, match=message):
        check_measurement(measure)
