import pytest
import yaml

from projects.paper.regimes import Run, read_plan
from projects.paper.regimes.results import Finished

SMALL = ["model.label_smoothing=0.0", "model.architecture_options.token_dropout=0.0"]
SMALL += ["model.architecture_options.embed_dim=32", "model.architecture_options.depth=2"]
SMALL += ["model.architecture_options.splits=[[3,2,1]]", "dataset.test.per_class=2"]
SMALL += ["optimizer.lr=5.0e-3"]

CONTENT = {
    "title": "Toys",
    "data": "digits",
    "batch_size": 8,
    "networks": {"t2t": {"config": "projects/classification/demo.yaml", "overrides": SMALL}},
    "augmentations": {"weak": {}, "usual": {"padding": 1, "flip_probability": 0.5}},
    "methods": {"dropout": "weight", "dropkey": "key"},
    "grids": [
        {
            "network": ["t2t"],
            "images": [2, 3],
            "augmentation": ["usual"],
            "steps": [3],
            "method": ["none", "dropout", "dropkey"],
            "ratio": [0.1, 0.5],
            "schedule": ["constant"],
            "seeds": 2,
        }
    ],
}


@pytest.fixture
def content():
    """A plan as plain values, to be changed."""
    return yaml.safe_load(yaml.safe_dump(CONTENT))


@pytest.fixture
def write_plan(tmp_path):
    """Writes plain values as a plan; returns its path."""

    def write(content):
        path = tmp_path / "toys.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def plan(content, write_plan):
    return read_plan(write_plan(content))


@pytest.fixture
def run():
    return Run("digits", "t2t", 2, "usual", 3, "dropkey", 0.5, "constant", 0)


@pytest.fixture
def finished():
    """Makes a row of the CSV."""

    def make(run, top1=50.0, settings="0a1b2c3d"):
        numbers = {"train_top1": 100.0, "train_loss": 0.25, "test_top1": top1, "test_loss": 1.5}
        return Finished(run, settings, {**numbers, "test_ece": 12.5, "seconds": 2.0})

    return make
