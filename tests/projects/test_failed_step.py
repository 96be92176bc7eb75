"""A step that failed is done again to the last bit, with DropKey's masks and all other draws."""

from pathlib import Path

import pytest
import torch

from dropkey_core.engine import UserError, load_config, replay_step, train, write_checkpoint
from dropkey_core.engine.trainer import Trainer
from tests.projects.small_runs import DATA, SMALL

pytestmark = pytest.mark.slow

STEP = 1


@pytest.fixture
def spoilt_gradient(monkeypatch):
    """Lets the gradients of one parameter become NaN in step 1; losses and weights are sound."""
    train_step = Trainer.train_step

    def spoil(trainer, batch):
        if trainer.step == STEP:
            parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
            parameter.register_hook(lambda gradient: gradient * float("nan"))
        return train_step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", spoil)


@pytest.mark.parametrize("project", DATA)
def test_the_same_to_the_last_bit(project, spoilt_gradient, small_sets, capsys):
    settings = [*SMALL, *DATA[project], "model.drop_ratio=0.3", "train.output_dir=run"]
    config = load_config(f"projects/{project}/demo.yaml", settings)
    with pytest.raises(UserError, match=r"step 1: the gradients .* lower optimizer.lr; again"):
        train(config)
    path = Path("run/failed_step_0000001.pth")
    kept = torch.load(path, weights_only=True)
    capsys.readouterr()
    assert replay_step(config, path) == kept["terms"] != {}  # not approximately
    said = capsys.readouterr().out
    assert "the terms are the same to the last bit" in said
    assert "changed since then" not in said
    # It is the same by no accident: with other random draws it is not.
    write_checkpoint(path, {**kept, "step": STEP + 1})
    assert replay_step(config, path) != kept["terms"]
