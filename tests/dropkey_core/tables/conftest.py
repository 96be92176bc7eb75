from pathlib import Path

import pytest
import yaml

TOYS = Path(__file__).parents[2] / "toy" / "toys.yaml"


@pytest.fixture
def content():
    """A table as plain values, to be changed."""
    return yaml.safe_load(TOYS.read_text())


@pytest.fixture
def write_table(toy_folder):
    """Writes a table beside toy.yaml; returns its path."""

    def write(content, name="toys"):
        path = toy_folder / f"{name}.yaml"
        is_text = isinstance(content, str)
        path.write_text(content if is_text else yaml.safe_dump(content, sort_keys=False))
        return path

    return write
