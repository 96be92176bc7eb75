import pytest
import torch

from dropkey_core.equip import apply_dropkey
from projects.paper.figures.occlusion import occlusion_curve
from tests.dropkey_core.analysis.patch_classifier import Classifier, data


class Collected:
    def __deepcopy__(self, memo):
        raise TypeError("as the annotations of a COCO set")

    def reset(self):
        self.logits = []

    def process(self, inputs, outputs):
        self.logits += [output["logits"].sum().item() for output in outputs]

    def evaluate(self):
        return {"cls": {"first": self.logits[0], "number": len(self.logits)}}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Classifier()
    apply_dropkey(model, 0.0)
    return model


def test_results_are_those_of_the_seed_whatever_the_batch_size(model):
    curves = [occlusion_curve(model, data(size), Collected(), [0, 0.5], 2) for size in (2, 3)]
    for one, other in zip(*curves, strict=True):
        assert (one.ratio, one.run) == (other.ratio, other.run)
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
        assert one.metrics["cls/number"] == 6
    whole, again, occluded, differently = (point.metrics["cls/first"] for point in curves[0])
    assert whole == again
    assert len({whole, occluded, differently}) == 3
    other_seed = occlusion_curve(model, data(2), Collected(), [0.5], 1, seed=1)
    assert other_seed[0].metrics["cls/first"] != occluded


def test_mode_is_put_back(model):
    model.train()
    occlusion_curve(model, data(3), Collected(), [0.5], 1)
    assert model.training


@pytest.mark.parametrize("ratios", [[1.0], [-0.1], [], [0.5, 0.5]])
def test_bad_ratios_are_refused(model, ratios):
    with pytest.raises(ValueError, match="occlusion ratio"):
        occlusion_curve(model, data(2), Collected(), ratios)


def test_no_run_is_refused(model):
    with pytest.raises(ValueError, match=r"num_runs must be at least 1, got 0"):
        occlusion_curve(model, data(2), Collected(), [0.5], 0)
