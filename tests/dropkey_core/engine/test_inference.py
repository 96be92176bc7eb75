import copy
import datetime

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from dropkey_core.engine import UserError, load_config
from dropkey_core.engine.inference import find_trained
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.published import PublishedWeights


def records(size):
    return [{"file_name": f"{n}.png"} for n in range(size)]


@pytest.fixture
def config():
    model = {"_target_": "builtins.dict"}
    test = {"dataset": {"_target_": f"{__name__}.records", "size": 10}}
    return OmegaConf.create(
        {"model": model, "dataloader": {"test": test}, "train": {"device": "cpu"}}
    )


class Linear(torch.nn.Linear):
    """A model of which classes begin anew in training, and which refuses files called bad."""

    reinitialised_on_mismatch = ("weight",)

    def __init__(self, inputs, outputs, pretrained_backbone=True):
        assert not pretrained_backbone  # weights come from the checkpoint, none are fetched
        super().__init__(inputs, outputs)

    def checkpoint_problem(self, file, content):
        return "is not for it" if file.stem == "bad" and "args" in content else None


@pytest.fixture
def linear_config(config):
    target = {"_target_": f"{__name__}.Linear", "inputs": 3, "outputs": 2}
    config.model = {**target, "pretrained_backbone": True}
    return config


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": torch.nn.Linear(3, 2).state_dict()}, path)
    return path


def test_model_has_the_weights_and_the_settings_and_the_config_stays_as_it_is(
    linear_config, weights, capsys
):
    linear_config.model.outputs = 7
    before = copy.deepcopy(linear_config)
    trained = find_trained(weights, {}, linear_config, device="cpu")
    model = trained.build({"outputs": 2})
    torch.testing.assert_close(dict(model.state_dict()), torch.load(weights)["model"])
    assert not model.training and linear_config == before
    assert str(weights) in capsys.readouterr().out


def test_another_device_is_told(linear_config, weights, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    find_trained(weights, {}, linear_config, device="cuda").build({"outputs": 2})
    find_trained(weights, {}, linear_config, device="cpu").build({"outputs": 2})
    told = "warning: device is cuda and this machine has none: cpu takes its place\n"
    assert capsys.readouterr().out.count(told) == 1


def test_nothing_of_a_model_that_predicts_begins_anew(linear_config, weights):
    linear_config.model.outputs = 7
    with pytest.raises(UserError, match="do not fit the model; mis-shaped: 2"):
        find_trained(weights, {}, linear_config).build()


def test_a_model_may_refuse_a_file(linear_config, weights):
    bad = weights.rename(weights.with_name("bad.pth"))
    assert find_trained(bad, {}, linear_config).build() is not None
    torch.save({**torch.load(bad), "args": 1}, bad)
    with pytest.raises(UserError, match=r"bad\.pth is not for it"):
        find_trained(bad, {}, linear_config).build()


def test_weights_of_another_model_are_refused(linear_config, weights):
    trained = find_trained(weights, {}, linear_config)
    assert trained.tensor("a linear map", "weight").shape == (2, 3)
    with pytest.raises(UserError, match=r"w\.pth is no checkpoint of DETR: it has no class_embed"):
        trained.tensor("DETR", "class_embed.weight")


# ---- sources -------------------------------------------------------------------------------------
DEMO = "projects/classification/demo.yaml"


@pytest.fixture
def demo(weights):
    """A checkpoint with the config that its training had."""
    text = OmegaConf.to_yaml(load_config(DEMO, ["model.num_classes=7"]))
    torch.save({**torch.load(weights), "config": text}, weights)
    return weights


def test_a_checkpoint_brings_what_of_its_config_predicting_needs(demo):
    trained = find_trained(demo, {}, overrides=["model.drop_ratio=0.2"], device="cpu")
    assert (trained.config.model.num_classes, trained.config.model.drop_ratio) == (7, 0.2)
    assert trained.config.dataloader.test.keys() == {"mapper"}
    assert trained.config.train == {"device": "cpu"}
    assert find_trained(demo, {}, DEMO).config.model.num_classes == 10


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "projects.detr.coco.os.system",
        "projects.gallery.Path",
        "dropkey_core.engine.train",
        "projects.detr.__all__",
        ["projects.detr.build_model"],
    ],
)
@pytest.mark.parametrize("place", ["model", "dataloader.test.mapper", "model.num_classes"])
def test_a_config_in_a_checkpoint_may_call_public_names_of_projects_only(demo, target, place):
    content = torch.load(demo)
    config = OmegaConf.create(content["config"])
    OmegaConf.update(config, f"{place}", {"_target_": target})
    torch.save({**content, "config": OmegaConf.to_yaml(config)}, demo)
    with pytest.raises(UserError, match=r"w\.pth has _target_: .*, which is not allowed"):
        find_trained(demo, {})


@pytest.mark.parametrize(
    "text", ["${oc.create:'{_target_: os.system}'}", "\\${x}", "${dataset.train.per_class}"]
)
def test_a_config_in_a_checkpoint_may_put_nothing_together(demo, text):
    content = torch.load(demo)
    settings = yaml.safe_load(content["config"])
    settings["model"]["num_classes"] = text
    torch.save({**content, "config": yaml.safe_dump(settings)}, demo)
    with pytest.raises(UserError, match=r"w\.pth has num_classes: .*, which is not allowed"):
        find_trained(demo, {})


@pytest.mark.parametrize("config", ["", "[1]", "model: {}", "model: {}\ndataloader: 3"])
def test_a_checkpoint_that_says_nothing_of_its_model_needs_a_config(weights, config):
    torch.save({**torch.load(weights), "config": config}, weights)
    with pytest.raises(UserError, match=r"w\.pth does not say which model .*\(--config\)"):
        find_trained(weights, {})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("model: [", "the config in .*w.pth cannot be read as YAML"),
        ("model: {a: 2020-01-01}", "does not say which model"),
        ("dataloader: {test: {mapper: text}}", "does not say which model"),
    ],
)
def test_a_config_in_a_checkpoint_that_is_none(demo, config, message):
    torch.save({**torch.load(demo), "config": config}, demo)
    with pytest.raises(UserError, match=message):
        find_trained(demo, {})


def test_of_a_dataset_only_paths_are_taken_from_a_checkpoint(demo):
    content = torch.load(demo)
    settings = yaml.safe_load(content["config"])
    settings["dataset"] = {"test": {"annotations": "a.json", "per_class": 3}, "classes": ["b"]}
    torch.save({**content, "config": yaml.safe_dump(settings)}, demo)
    assert find_trained(demo, {}).config.dataset == {"test": {"annotations": "a.json"}}
    settings["model"]["num_classes"] = datetime.date(2020, 1, 1)
    torch.save({**content, "config": yaml.safe_dump(settings)}, demo)
    with pytest.raises(UserError, match=r"the config in .*w\.pth cannot be read as settings"):
        find_trained(demo, {})


def test_a_run_and_its_best_weights(weights, tmp_path):
    (tmp_path / "config.yaml").write_text((PROJECT_ROOT / DEMO).read_text())
    weights.rename(tmp_path / "best.pth")
    trained = find_trained(tmp_path, {}, overrides=["model.num_classes=3"])
    assert trained.config.model.num_classes == 3
    assert trained.file == tmp_path / "best.pth" and trained.state.keys() == {"weight", "bias"}


@pytest.fixture
def fetched(weights, monkeypatch):
    """An address whose file is here already."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights.parent))
    (weights.parent / "checkpoints").mkdir()
    weights.rename(weights.parent / "checkpoints" / "w.pth")
    return "https://example.org/w.pth"


def test_an_address(fetched):
    trained = find_trained(fetched, {}, DEMO, ["model.num_classes=3"])
    assert (trained.source, trained.config.model.num_classes) == (fetched, 3)
    assert trained.state.keys() == {"weight", "bias"}


def test_a_published_name(fetched, tmp_path, monkeypatch):
    """Whatever the working folder holds: a folder of that name has a config of somebody else's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/config.yaml").write_text("model: {_target_: os.system}")
    published = PublishedWeights(
        url=fetched,
        config=DEMO,
        overrides=("model.num_classes=4", "model.drop_ratio=0.0"),
        licence="MIT",
        metric="none",
        source="a test",
        convert=lambda content: {"renamed": content["model"]["weight"]},
    )
    trained = find_trained("small", {"small": published}, overrides=["model.num_classes=5"])
    assert (trained.config.model.num_classes, trained.config.model.drop_ratio) == (5, 0)
    assert trained.state.keys() == {"renamed"}
    with pytest.raises(UserError, match=r"no checkpoint at smal .*: neither.*nearest is 'small'"):
        find_trained("smal", {"small": published})
