import copy

import pytest
import yaml

TOY_TABLE = {
    "title": "Toys",
    "source": "a made-up paper.",
    "notes": ["Higher is better."],
    "metrics": [{"name": "bbox/AP", "label": "AP", "digits": 3}],
    "seeds": {"full": [0, 1], "demo": [0]},
    "scale_notes": {"demo": "Two steps only."},
    "setups": {
        "toy": {
            "full": {"config": "toy.yaml", "overrides": ["train.max_iter=4"]},
            "demo": {"config": "toy.yaml", "overrides": ["train.max_iter=2"]},
        },
        "count": {
            scale: {"measure": {"_target_": "toy_measurement.count", "times": 3}}
            for scale in ("full", "demo")
        },
    },
    "rows": [
        {"id": "none", "label": "none", "setup": "toy", "overrides": ["model.drop_ratio=0.0"],
         "paper": {"bbox/AP": -0.5}},
        {"id": "tuned", "label": "tuned", "setup": "toy", "weights_of": "none"},
        {"id": "again", "label": "measured again", "setup": "count", "weights_of": "none"},
        {"id": "repeated", "label": "repeated", "group": "others", "same_as": "none"},
        {"id": "absent", "label": "absent", "group": "others", "left_out": "not built",
         "paper": {"bbox/AP": -0.25}},
    ],
}  # fmt: skip

MEASUREMENT = '''
def count(model, loader, evaluator, seed, times=1):
    """Not an evaluation: numbers that show what a measurement gets."""
    assert not model.training
    return {"bbox/AP": float(times * sum(len(batch) for batch in loader))}
'''


@pytest.fixture
def content():
    """A table as plain values, to be changed."""
    return copy.deepcopy(TOY_TABLE)


@pytest.fixture
def write_table(toy_folder, monkeypatch):
    """Writes a table beside toy.yaml; returns its path."""
    (toy_folder / "toy_measurement.py").write_text(MEASUREMENT)
    monkeypatch.syspath_prepend(str(toy_folder))

    def write(content, name="toys"):
        path = toy_folder / f"{name}.yaml"
        path.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        )
        return path

    return write
