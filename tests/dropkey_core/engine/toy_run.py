"""Runs of the toy, ended early in several ways, and what they have left."""

import csv
from contextlib import contextmanager

import pytest
import torch

from dropkey_core.engine import load_config, read_checkpoint, train

TIMING = {"images_per_second", "memory_mb"}


def run(*overrides, output="output", **arguments):
    return train(load_config("toy.yaml", [f"train.output_dir={output}", *overrides]), **arguments)


def curve(folder):
    with (folder / "metrics.csv").open() as file:
        rows = csv.DictReader(file)
        return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def assert_same_run(folder, other):
    """Losses, metrics, weights and optimizer of two runs are equal to the last bit."""
    assert curve(folder) == curve(other)
    ours, theirs = read_checkpoint(folder / "last.pth"), read_checkpoint(other / "last.pth")
    for weights in ("model", "raw_model"):  # the latter beside averages
        for name, weight in ours.get(weights, {}).items():
            assert torch.equal(weight, theirs[weights][name]), name
    for key, state in ours["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg_sq"], theirs["optimizer"]["state"][key]["exp_avg_sq"])
    for key in ("step", "evaluated_step", "best", "metrics"):
        assert ours[key] == theirs[key], key
    best, other_best = read_checkpoint(folder / "best.pth"), read_checkpoint(other / "best.pth")
    assert best["step"] == other_best["step"]
    assert files(folder) == files(other)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def toy(name):
    import toy_experiment

    return getattr(toy_experiment, name)


def after_calls(monkeypatch, owner, name, count, action):
    """Run ``action`` in the ``count``-th call of a function, before the function itself."""
    original, calls = getattr(owner, name), []

    def counted(*arguments, **keywords):
        calls.append(1)
        if len(calls) == count:
            action()
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counted)


@contextmanager
def full_disk(size):
    """Let no file grow beyond ``size`` bytes; the system says "File too large"."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Crash(Exception):
    pass


def crash():
    raise Crash
