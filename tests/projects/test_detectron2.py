"""Every config in detectron2's own lazyconfig_train_net.py, held against tools/train_net.py.

Needs detectron2 and, since its tools are not installed with it, its checkout:
DROPKEY_DETECTRON2=/path/to/detectron2 python -m pytest tests/projects/test_detectron2.py
"""

import csv
import importlib.util
import math
import os
import sys
from pathlib import Path

import pytest
import torch

from dropkey_core.engine import evaluate, load_config, train
from dropkey_core.engine.paths import PROJECT_ROOT
from tests.projects.small_runs import RECIPES, ROWS, second_stage, small_overrides, small_recipe
from tests.projects.test_configs import CONFIGS

VARIABLE = "DROPKEY_DETECTRON2"
TOOL = Path(os.environ.get(VARIABLE, "")) / "tools/lazyconfig_train_net.py"
INSTALLED = importlib.util.find_spec("detectron2") is not None
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="detectron2 is not installed"),
    pytest.mark.skipif(not TOOL.is_file(), reason=f"{VARIABLE} names no checkout of detectron2"),
]
if INSTALLED:
    from detectron2.utils.events import EventWriter, get_event_storage

    class Recorder(EventWriter):
        """Keeps the loss and learning rate of every step; detectron2's own writers smooth them."""

        def __init__(self):
            self.steps = {}

        def write(self):  # once more when training has ended
            storage = get_event_storage()
            loss, step = storage.history("total_loss").values()[-1]
            self.steps[int(step)] = (loss, storage.history("lr").latest())


DEMOS = ("classification", "detr", "metro", "qpic")


class Theirs:
    """detectron2's tool: call it with a command line, then see what came of it.

    Attributes:
        steps: number -> (loss, learning rate) of each logged step of the last call.
        metrics: its last evaluation.
    """

    def __init__(self, module, monkeypatch):
        self.module = module
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(module, "print_csv_format", self.keep)

    def keep(self, metrics):
        self.metrics = metrics

    def __call__(self, path, *arguments):
        recorder = Recorder()
        self.steps = recorder.steps
        self.monkeypatch.setattr(self.module, "default_writers", lambda *_: [recorder])
        command = [TOOL.name, "--config-file", str(path), *arguments]
        self.monkeypatch.setattr(sys, "argv", command)
        self.module.invoke_main()


@pytest.fixture(scope="module")
def their_module():
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def theirs(their_module, small_sets, monkeypatch):
    return Theirs(their_module, monkeypatch)


def overrides(path, **settings):
    """What makes a config small, and ``train.<setting>`` on top."""
    return [*small_overrides(path), *(f"train.{name}={value}" for name, value in settings.items())]


def demo(project):
    return PROJECT_ROOT / f"projects/{project}/demo.yaml"


def flat(metrics):
    """``{"bbox/AP": 42.0}`` for ``{"bbox": {"AP": 42.0}}``, as our engine returns them."""
    return {
        f"{task}/{name}": value for task, part in metrics.items() for name, value in part.items()
    }


def assert_same(metrics, expected):
    """To the last bit; what could not be measured is NaN in both."""
    assert metrics.keys() == expected.keys()
    for name, value in metrics.items():
        assert value == expected[name] or (math.isnan(value) and math.isnan(expected[name])), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_trains_evaluates_and_resumes(path, theirs):
    small = overrides(path, output_dir="run", log_period=1)
    small.append("train.amp.enabled=false")  # theirs is for CUDA alone
    theirs(path, *small)
    assert [*theirs.steps] == [0, 1]
    after_training = flat(theirs.metrics)
    trained = [*small, "train.init_checkpoint=run/model_final.pth"]
    theirs(path, "--eval-only", *trained)
    assert_same(flat(theirs.metrics), after_training)
    assert_same(evaluate(load_config(path, trained)), after_training)
    theirs(path, "--resume", *small, "train.max_iter=3")
    assert [*theirs.steps] == [2]


@pytest.mark.parametrize("row", [*ROWS, "second stage"])
@pytest.mark.parametrize("project", RECIPES)
def test_every_row_runs(project, row, theirs):
    path, small = RECIPES[project], [*small_recipe(project), "train.log_period=1"]
    if row == "second stage":
        theirs(path, *small, "train.output_dir=first")
        settings = [*second_stage(project), "train.init_checkpoint=first/model_final.pth"]
    else:
        settings = ROWS[row]
    theirs(path, *small, *settings, "train.output_dir=run")
    assert [*theirs.steps] == [0, 1]
    assert all(math.isfinite(loss) for loss, _ in theirs.steps.values())


@pytest.mark.parametrize("project", DEMOS)
def test_they_start_from_our_checkpoints(project, theirs):
    path = demo(project)
    ours = train(load_config(path, overrides(path, output_dir="ours")))
    for name in ("best.pth", "last.pth"):
        theirs(path, "--eval-only", *overrides(path), f"train.init_checkpoint=ours/{name}")
        assert_same(flat(theirs.metrics), ours)


# What a model draws at random differs, since our engine alone reseeds before every step.
NOTHING_DRAWN = ["model.drop_ratio=0.0"]
NOTHING_DRAWN_EITHER = {"metro": ["model.dropout=0.0", "model.max_masked=0.0"]}


@pytest.mark.parametrize("project", DEMOS)
def test_both_engines_train_alike(project, theirs, monkeypatch):
    path = demo(project)
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda _, x: x)  # T2T's tokens have their own
    settings = overrides(path, max_iter=5, log_period=1, eval_period=0) + NOTHING_DRAWN
    settings += NOTHING_DRAWN_EITHER.get(project, [])
    theirs(path, *settings, "train.output_dir=theirs")
    train(load_config(path, [*settings, "train.output_dir=ours"]))
    with Path("ours/metrics.csv").open() as file:
        ours = [row for row in csv.DictReader(file) if row["loss"]]
    assert len(ours) == len(theirs.steps) == 5
    for row, (step, (loss, lr)) in zip(ours, theirs.steps.items(), strict=True):
        assert int(row["step"]) == step + 1
        assert float(row["loss"]) == pytest.approx(loss, rel=1e-6)
        assert float(row["lr"]) == pytest.approx(lr, rel=1e-12)
