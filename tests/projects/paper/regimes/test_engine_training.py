from dataclasses import replace

import pytest
import torch

from dropkey_core.engine import UserError
from projects.paper.regimes import EngineTrainer, read_plan
from projects.paper.regimes.engine_training import draw_records
from projects.paper.regimes.plan import Run
from tests.projects.paper.regimes.conftest import SMALL

CONTENT = {
    "title": "Toys",
    "data": "digits",
    "trainer": "engine",
    "networks": {"t2t": {"config": "projects/classification/demo.yaml", "overrides": SMALL}},
    "methods": {"dropkey": "key"},
    "metrics": {"cls/top1": {"label": "top-1, points"}},
    "grids": [
        {
            "network": ["t2t"],
            "images": [5],
            "steps": [3],
            "method": ["none", "dropkey"],
            "ratio": [0.5],
            "schedule": ["constant"],
            "seeds": 2,
        }
    ],
}


@pytest.fixture
def plan(write_plan):
    return read_plan(write_plan(CONTENT))


@pytest.fixture
def run():
    return Run("digits", "t2t", 5, "own", 3, "dropkey", 0.5, "constant", 1)


@pytest.fixture
def watched(plan, monkeypatch):
    """Trains a run; returns its numbers and the batches that its model got."""
    from projects.classification.classifier import ClassificationModel

    def train(run):
        seen = []
        forward = ClassificationModel.forward

        def watching(model, batch):
            if model.training:
                seen.append(torch.stack([record["image"] for record in batch]))
            return forward(model, batch)

        with monkeypatch.context() as patch:
            patch.setattr(ClassificationModel, "forward", watching)
            return EngineTrainer(plan)(run), seen

    return train


def test_methods_share_their_images(watched, run):
    numbers, seen = watched(run)
    assert list(numbers) == ["cls/top1", "seconds"]
    _, others = watched(replace(run, method="none", ratio=0.0, schedule="-"))
    assert len(seen) == 3
    torch.testing.assert_close(others, seen, rtol=0, atol=0)
    _, moved = watched(replace(run, seed=2))
    assert not torch.equal(moved[0], seen[0])


def test_config_of_a_run(plan, run):
    trainer = EngineTrainer(plan)
    config = trainer.config_of(run, "folder")
    assert (config.model.drop_ratio, config.model.drop_unit) == (0.5, "key")
    assert config.model.drop_schedule == "constant"
    assert (config.train.seed, config.train.max_iter, config.train.eval_period) == (1, 3, 3)
    assert config.dataloader.train.seed == 1
    none = trainer.config_of(replace(run, method="none", ratio=0.0, schedule="-"), "folder")
    assert none.model.drop_ratio == 0.0


def test_settings_tell_what_changed(plan, run):
    there = EngineTrainer(plan).settings(run)
    assert EngineTrainer(plan).settings(replace(run, seed=3, steps=9, ratio=0.1)) == there
    plan.networks["t2t"].overrides.append("optimizer.lr=1.0e-3")
    assert EngineTrainer(plan).settings(run) != there


def test_unknown_metric_is_told_with_those_there_are(plan, run):
    plan.metrics = {"cls/top2": plan.metrics["cls/top1"]}
    with pytest.raises(UserError, match=r"no metric cls/top2, only cls/top1, cls/top5"):
        EngineTrainer(plan)(run)


def test_fewer_records_are_among_the_more():
    records = [*"abcdefgh"]
    few, more = (draw_records(records, number, seed=0) for number in (3, 6))
    assert more[:3] == few
    assert len(set(more)) == 6
    assert draw_records(records, 3, seed=1) != few
    with pytest.raises(ValueError, match="images must be from 1 to 8, got 9"):
        draw_records(records, 9, seed=0)
