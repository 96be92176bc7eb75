"""Every YAML of every project, and every row of overrides: two steps through the tool."""

import csv
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dropkey_core.engine import instantiate, load_config
from dropkey_core.engine.data import Draw
from dropkey_core.engine.paths import PROJECT_ROOT
from tests.projects.small_runs import RECIPES, ROWS, second_stage, small_overrides, small_recipe

pytestmark = pytest.mark.slow

CONFIGS = sorted(PROJECT_ROOT.glob("projects/*/*.yaml"))
each_config = pytest.mark.parametrize(
    "path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
LOGGED = ["train.log_period=1", "train.loggers=[csv]"]  # without pictures
SAID = {  # by project: the head of its table of results
    "detr": "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]",
    "qpic": "Known Object",
    "metro": "PA-MPJPE",
    "classification": "cls/top1",
}


@pytest.fixture
def train_net(load_script, small_sets):
    return load_script("tools/train_net").main


@each_config
def test_two_steps(path, train_net, tmp_path, capsys):
    project = path.parent.name
    config = f"projects/{project}/{path.name}"
    assert train_net(["--config", config, *small_overrides(path), "train.output_dir=run"]) == 0
    said = capsys.readouterr().out
    assert SAID[project] in said
    for name in ("config.yaml", "last.pth", "best.pth", "metrics.csv", "tensorboard"):
        assert (tmp_path / "run" / name).exists()
        assert f"run/{name}" in said
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (event,) = events.Images("test set")
    assert event.step == 2
    assert event.width > event.height / 8 > 0


@each_config
def test_loaders_can_be_sent_to_a_spawned_process(path, small_sets):
    config = load_config(path, small_overrides(path))
    for name in ("train", "test"):
        here = instantiate(config.dataloader[name], name).dataset
        there = pickle.loads(pickle.dumps(here))
        mine, theirs = (
            {name: value for name, value in dataset[Draw(0, 5)].items() if type(value) is not str}
            for dataset in (here, there)
        )
        torch.testing.assert_close(theirs, mine, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("project", RECIPES)
def test_the_published_row_is_overrides(project, train_net):
    """Of the others "dropout" is in the second stage's test, and "nothing" is its second stage."""
    arguments = ["--config", str(RECIPES[project]), *small_recipe(project), *ROWS["published"]]
    assert train_net([*arguments, *LOGGED, "train.output_dir=run"]) == 0
    assert len(logged("run", "loss")) == 2


@pytest.mark.parametrize("project", RECIPES)
def test_second_stage_starts_from_the_first(project, train_net):
    arguments = ["--config", str(RECIPES[project]), *small_recipe(project), *LOGGED]
    # With other weights than the second's would be.
    first = [*arguments, *ROWS["dropout"], "train.seed=1", "train.output_dir=first"]
    assert train_net(first) == 0
    second = [*arguments, "--weights", "first/last.pth", *second_stage(project)]
    assert train_net([*second, "train.output_dir=second"]) == 0
    assert [float(rate) for rate in logged("second", "lr")] == [1e-5, 1e-5]
    before, after = (matrices(f"{run}/last.pth") for run in ("first", "second"))
    assert before.keys() == after.keys()
    furthest = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < furthest < 3e-5  # two steps of Adam


@pytest.mark.parametrize("project", RECIPES)
def test_second_stage_keeps_its_rate(project, small_sets):
    config = load_config(RECIPES[project], second_stage(project))
    multiplier = instantiate(config.lr_multiplier, "lr_multiplier")
    assert {multiplier(part / 100) for part in range(100)} == {1.0}


def logged(run, column):
    with (Path(run) / "metrics.csv").open() as file:
        return [row[column] for row in csv.DictReader(file) if row["loss"]]


def matrices(checkpoint):
    """Tensors that gradients alone change: those of batch norms, of one dimension, are left out."""
    model = torch.load(checkpoint, weights_only=True)["model"]
    return {name: tensor for name, tensor in model.items() if tensor.dim() > 1}


@each_config
def test_headed_by_its_command_and_plain_enough_for_detectron2(path):
    text = path.read_text()
    header = text.split("\n\n")[0]
    assert f"tools/train_net.py --config projects/{path.parent.name}/{path.name}" in header
    assert "Hardware:" in header
    for word in ("_partial_", "_convert_", "_recursive_", "defaults:", "!!"):
        assert word not in text
    # YAML 1.1 reads 1e-4 as text, 1.0e-4 as a number.
    assert not re.search(r"[:\[ ]\d+e-?\d", re.sub(r"#.*", "", text))
    assert set(yaml.safe_load(text)) == {
        "dataset", "model", "optimizer", "lr_multiplier", "dataloader", "train"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("project", "backbone"), [("detr", "resnet101"), ("qpic", "resnet50"), ("metro", "resnet18")]
)
def test_the_other_backbone_is_one_override(project, backbone, train_net):
    path = PROJECT_ROOT / f"projects/{project}/dropkey.yaml"
    overrides = [*small_overrides(path), f"model.backbone={backbone}"]
    assert train_net(["--config", str(path), "--eval-only", *overrides]) == 0
