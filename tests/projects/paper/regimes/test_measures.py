from dataclasses import replace

import pytest
import torch

from projects.paper.regimes import Trainer
from projects.paper.regimes.judging import Images, judge
from projects.paper.regimes.measures import alignment, entropy, occlusion

pytestmark = pytest.mark.slow


@pytest.fixture
def trial(plan, run, monkeypatch):
    """A network that has learned something, as the measures get it."""
    kept = []
    monkeypatch.setattr(
        "projects.paper.regimes.training.MEASURES",
        {"occlusion": lambda trial: kept.append(trial) or {}},
    )
    plan.measures = ["occlusion"]
    Trainer(plan)(replace(run, augmentation="weak", images=10, steps=150, ratio=0.3))
    return kept[0]


def test_columns_of_a_run(plan, run):
    plan.measures = ["occlusion", "alignment", "entropy"]
    outcome = Trainer(plan)(run)
    assert list(outcome)[6:] == [
        *("occluded_30", "lost_30", "occluded_50", "lost_50", "occluded_70", "lost_70"),
        *("monte_carlo_top1", "monte_carlo_loss", "expected_top1", "expected_loss"),
        *("finetuned_top1", "finetuned_loss", "entropy"),
    ]
    plan.measures = []
    plain = Trainer(plan)(run)
    assert len(plain) == 6
    assert {**outcome, **plain, "seconds": 0.0} == {**outcome, "seconds": 0.0}


def test_what_missing_patches_cost(trial):
    found = occlusion(trial)
    clean = judge(trial.model.network, trial.test).top1
    for part in (30, 50, 70):
        assert found[f"occluded_{part}"] + found[f"lost_{part}"] == pytest.approx(clean)
    assert found["lost_70"] > 0
    assert occlusion(trial) == found


def test_alignment_by_masks_is_near_the_exact_one_and_neither_stays(trial):
    before = [parameter.clone() for parameter in trial.model.parameters()]
    found = alignment(trial)
    assert found["monte_carlo_loss"] == pytest.approx(found["expected_loss"], abs=0.01)
    assert trial.model.network.blocks[0].attn.inference is None
    assert trial.model.network.blocks[0].attn.drop_ratio == 0.3
    torch.testing.assert_close(list(trial.model.parameters()), before, rtol=0, atol=0)


def test_nothing_to_align_without_dropkey(trial):
    found = alignment(trial._replace(drops_keys=False))
    assert str(found["expected_top1"]) == str(found["monte_carlo_loss"]) == "nan"
    assert found["finetuned_loss"] > 0


def test_entropy_is_at_most_that_of_17_equal_weights(trial):
    found = entropy(trial)["entropy"]
    assert 0 < found < torch.tensor(17.0).log()
    few = trial._replace(test=Images(trial.test.pixels[:1], trial.test.labels[:1]))
    assert entropy(few)["entropy"] != found
