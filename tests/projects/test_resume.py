"""The demos, shortened, go on to the last bit: in bfloat16, in micro-batches, with averages."""

from pathlib import Path

import pytest
import torch

from dropkey_core.engine import load_config, read_checkpoint, train
from dropkey_core.engine.trainer import Trainer
from tests.projects.small_runs import DATA, SMALL, SMALL_METRO

pytestmark = pytest.mark.slow

MODERN = [
    "train.amp={enabled: true, dtype: bfloat16}",
    "train.accumulate=2",
    "train.ema.decay=0.5",
    "train.max_iter=4",
    "train.log_period=1",
    "train.loggers=[csv]",  # without pictures
    "train.checkpointer.period=2",
]


class Killed(Exception):
    pass


@pytest.mark.parametrize("project", DATA)
def test_a_killed_run_goes_on(project, small_sets, monkeypatch):
    settings = [*SMALL, *DATA[project], *MODERN, *(SMALL_METRO if project == "metro" else [])]

    def run(folder, **arguments):
        overrides = [*settings, f"train.output_dir={folder}"]
        return train(load_config(f"projects/{project}/demo.yaml", overrides), **arguments)

    metrics = run("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        train_step = Trainer.train_step

        def killed(trainer, batch):
            if trainer.step == 3:
                raise Killed
            return train_step(trainer, batch)

        patch.setattr(Trainer, "train_step", killed)
        run("parts")
    assert repr(run("parts", resume=True)) == repr(metrics)  # NaN is not equal to itself
    whole, parts = (read_checkpoint(f"{folder}/last.pth") for folder in ("whole", "parts"))
    for weights in ("model", "raw_model"):
        torch.testing.assert_close(parts[weights], whole[weights], rtol=0, atol=0)
    assert parts["accumulate"] == whole["accumulate"] == 2
    columns = [line.split(",")[:2] for line in Path("whole/metrics.csv").read_text().splitlines()]
    assert columns == [
        line.split(",")[:2] for line in Path("parts/metrics.csv").read_text().splitlines()
    ]
