from pathlib import Path

import pytest
import yaml

TOYS = Path(__file__).parents[3] / "toy" / "toys.yaml"


@pytest.fixture
def content():
    """A table as plain values, to be changed."""
    return yaml.safe_load(TOYS.read_text())


@pytest.fixture
def staged(content):
    """A table with a row that is trained twice, as the paper's second stage is."""
    content["stages"] = {"shorter": {"full": ["train.max_iter=3"], "demo": ["train.max_iter=1"]}}
    twice = {"id": "twice", "label": "trained twice", "setup": "toy", "stage": "shorter"}
    twice |= {"overrides": ["model.drop_ratio=0.25"], "paper": {"bbox/AP": [-0.125, 0.5]}}
    pure = {"id": "pure", "label": "once", "same_as": "twice.first"}
    content["rows"] += [twice, pure]
    return content


@pytest.fixture
def write_table(toy_folder):
    """Writes a table beside toy.yaml; returns its path."""

    def write(content, name="toys"):
        path = toy_folder / f"{name}.yaml"
        is_text = isinstance(content, str)
        path.write_text(content if is_text else yaml.safe_dump(content, sort_keys=False))
        return path

    return write
