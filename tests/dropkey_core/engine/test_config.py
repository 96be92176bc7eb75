import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from dropkey_core.engine import UserError, instantiate, load_config
from dropkey_core.engine.config import fits


def test_loads_resolves_and_completes(toy_folder):
    config = load_config("toy.yaml", ["optimizer.lr=1e-4", "train.seed=7"])
    assert config.optimizer.lr == 1e-4
    assert config.optimizer.params.base_lr == 1e-4
    assert config.dataloader.train.seed == 7
    text = (toy_folder / "toy.yaml").read_text()
    short = re.sub(r"train:\n  output_dir(.|\n)*", "train: {output_dir: o, max_iter: 3}", text)
    (toy_folder / "short.yaml").write_text(short.replace("${train.seed}", "1"))
    assert load_config("short.yaml").train.checkpointer.period == 5000


def test_parameter_of_a_target_can_be_given_though_the_file_lacks_it(toy_folder):
    assert load_config("toy.yaml", ["model.drop_ratio=0.25"]).model.drop_ratio == 0.25


@pytest.mark.parametrize(
    "text",
    [
        "2024_01_15",
        "1e3",
        "no",
        "a #1",
        "a: b",
        "[a]",
        "{a: b}",
        "007",
        "null/x",
        "a, b",
        "*a",
        "1:30",
    ],
)
def test_text_stays_as_it_stands(toy_folder, text):
    path = toy_folder / "toy.yaml"
    path.write_text(path.read_text().replace("size: 10", "size: 10\n  images: here"))
    keys = ("train.output_dir", "train.init_checkpoint", "train.device", "dataset.images")
    config = load_config("toy.yaml", [f"{key}={text}" for key in keys])
    found = (config.train.output_dir, config.train.init_checkpoint, config.train.device)
    assert (*found, config.dataset.images) == (text,) * 4


def test_text_may_be_quoted_referred_to_and_left_out(toy_folder):
    overrides = ["train.best_metric=''", 'train.output_dir="a b"', "train.init_checkpoint=null"]
    train = load_config("toy.yaml", [*overrides, "train.device=${train.output_dir}"]).train
    assert (train.best_metric, train.output_dir, train.device) == ("", "a b", "a b")
    assert train.init_checkpoint is None


def test_numbers_and_lists_are_yaml_where_the_file_has_text(toy_folder):
    config = load_config("toy.yaml", ["train.accumulate=auto", "train.accumulate=2"])
    assert config.train.accumulate == 2


def test_home_is_expanded(toy_folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    overrides = ["train.output_dir=~/runs/a", "train.init_checkpoint=~/b.pth"]
    train = load_config("toy.yaml", overrides).train
    assert (train.output_dir, train.init_checkpoint) == ("/home/me/runs/a", "/home/me/b.pth")


@pytest.mark.parametrize("value", ["2024_01_15", "no", "1e3"])
def test_what_yaml_takes_for_a_number_in_the_file_has_to_be_quoted(toy_folder, value):
    path = toy_folder / "toy.yaml"
    text = path.read_text()
    path.write_text(text.replace("output_dir: output", f"output_dir: {value}"))
    with pytest.raises(UserError, match=r"train.output_dir must be text, YAML reads .*: quote it"):
        load_config("toy.yaml")
    path.write_text(text.replace("output_dir: output", f"output_dir: '{value}'"))
    assert load_config("toy.yaml").train.output_dir == value


def test_config_is_found_below_the_project_root(toy_folder):
    (toy_folder / "toy.yaml").unlink()
    assert load_config("tests/toy/toy.yaml").model.width == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.widht=5", "unknown key 'model.widht'; nearest is 'model.width'"),
        ("model.drop_ration=5", "unknown key 'model.drop_ration'; nearest is 'model.drop_ratio'"),
        ("modle.width=5", "unknown key 'modle'; nearest is 'model'"),
        ("train.max_itr=5", "unknown key 'train.max_itr'; nearest is 'train.max_iter'"),
        ("train.checkpointer.perod=5", "perod'; nearest is 'train.checkpointer.period'"),
        ("dataset.sise=5", "unknown key 'dataset.sise'; nearest is 'dataset.size'"),
        ("dataloader.tran.seed=5", "unknown key 'dataloader.tran'; nearest is 'dataloader.train'"),
        ("dataloader.train.mapper.trainning=true", "is 'dataloader.train.mapper.training'"),
        ("optimizer.params.base_rl=1", "nearest is 'optimizer.params.base_lr'"),
        ("train.ddp.find_unused=true", "nearest is 'train.ddp.find_unused_parameters'"),
        ("model.width=wide", "model.width must be int, got 'wide'"),
        ("model.width=true", "model.width must be int, got True"),
        ("model.drop_ratio=half", "model.drop_ratio must be float, got 'half'"),
        ("model.activation=sine", r"model.activation must be Literal\['relu', 'tanh'\], got 's"),
        ("lr_multiplier.milestones=0.5", "milestones must be Sequence\\[float\\], got 0.5"),
        ("train.max_iter=many", "train.max_iter: Value 'many' .* could not be converted to Int"),
        ("train.amp.enabled=perhaps", "train.amp.enabled: Value 'perhaps'"),
        ("train.max_iter=???", "train.max_iter: Missing mandatory value"),
        ("optimizer.lr=${model.lr}", "Interpolation key 'model.lr' not found"),
        ("model._target_=toy_experiment.ToyModle", "model._target_: cannot .* is 'ToyModel'"),
        ("model._target_=projcts.detr.Detr", "cannot import .*; nearest is 'projects'"),
        ("model._target_=torch.version.cuda.x", "cannot import 'torch.version.cuda.x'"),
        ("model._target_=toy_experiment.__name__", "is a str, not something to call"),
        ("model._target_=torch", "must be a dotted name such as projects.detr.build_model"),
        ("model._partial_=true", "unknown key 'model._partial_'"),
        ("model", "an override reads key=value, got 'model'"),
        ("model.width=[1", "cannot apply the override"),
        ("lr_multiplier.milestones.a=1", "milestones.a=1': invalid literal for int"),
        ("lr_multiplier.milestones.1=1", "milestones.1=1': list index out of range"),
    ],
)
def test_mistake_is_named_with_the_nearest_key(toy_folder, override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config("toy.yaml", [override])
    assert "\n" not in caught.value.one_line()


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("  width: 8", "  wdith: 8", "unknown key 'model.wdith'; nearest is 'model.width'"),
        ("\nlr_multiplier:", "\nlr_multipler:", "unknown key 'lr_multipler'; nearest is 'lr_m"),
        ("  test:", "  tset:", "unknown key 'dataloader.tset'; nearest is 'dataloader.test'"),
        ("    total_batch_size: 4\n", "", "dataloader.train.total_batch_size is missing"),
        ("${optimizer.lr}", "${optimiser.lr}", "optimizer.params.base_lr: .*optimiser"),
        ("  width: 8", "  width: [8", "toy.yaml cannot be read as YAML: .*line"),
        ("model:", "defaults: [x]\nmodel:", "unknown key 'defaults'"),
        ("train:\n  output_dir", "train: 3\nx:\n  output_dir", "unknown key 'x'"),
    ],
)
def test_mistake_in_the_file(toy_folder, wrong, right, message):
    text = (toy_folder / "toy.yaml").read_text()
    assert wrong in text
    (toy_folder / "toy.yaml").write_text(text.replace(wrong, right, 1))
    with pytest.raises(UserError, match=message):
        load_config("toy.yaml")


def test_missing_section_missing_file_and_no_mapping(toy_folder):
    with pytest.raises(UserError, match=r"no config 'toi.yaml' below"):
        load_config("toi.yaml")
    (toy_folder / "list.yaml").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"list.yaml must be a mapping"):
        load_config("list.yaml")
    (toy_folder / "none.yaml").write_text("model: {_target_: x.y}")
    with pytest.raises(UserError, match="no section 'optimizer'"):
        load_config("none.yaml")
    (toy_folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(UserError, match=r"bytes.yaml"):
        load_config("bytes.yaml")


def test_yaml_cannot_run_code(toy_folder):
    (toy_folder / "evil.yaml").write_text("model: !!python/object/apply:os.mkdir [ran]")
    with pytest.raises(UserError, match=r"evil.yaml cannot be read as YAML"):
        load_config("evil.yaml")
    assert not (toy_folder / "ran").exists()


def test_module_that_breaks_is_not_called_missing(toy_folder, monkeypatch):
    (toy_folder / "broken_module.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(str(toy_folder))
    with pytest.raises(UserError, match="needs the module 'not_installed_anywhere'"):
        load_config("toy.yaml", ["model._target_=broken_module.Model"])


def keep(**arguments):
    return arguments


def refuse(value):
    raise ValueError(f"value must be in [0, 1), got {value}")


def crash(value):
    return value.missing


def section(target, **arguments):
    return OmegaConf.create({"_target_": f"{__name__}.{target.__name__}", **arguments})


def test_instantiate_passes_plain_values_and_injected_objects():
    given = object()
    inner = section(keep, numbers=[1, 2])
    made = instantiate(section(keep, inner=inner, table={"a": [1]}, model=3), "key", model=given)
    assert made["model"] is given  # in place of the config's
    assert made["inner"] == {"numbers": [1, 2]}
    for value in (made["inner"]["numbers"], made["table"], made["table"]["a"]):
        assert not isinstance(value, DictConfig | ListConfig)


def test_refused_value_is_the_users_error_and_a_crash_is_not():
    with pytest.raises(UserError, match=r"^model: value must be in \[0, 1\), got 3$"):
        instantiate(section(refuse, value=3), "model")
    with pytest.raises(UserError, match=r"^model: value must be"):
        instantiate(section(keep, inner=section(refuse, value=3)), "model")
    with pytest.raises(AttributeError, match="missing"):
        instantiate(section(crash, value=3), "model")


@pytest.mark.parametrize(
    ("value", "hint", "is_fit"),
    [
        (1, float, True), (1.5, int, False), (True, float, False), (1, bool, False),
        (None, int | None, True), ("a", int | None, False),
        ([1], Sequence[float], True), (["a"], Sequence[int], False), ([1], Iterable[float], True),
        ([1, {"_target_": "a.b"}], list[int], True),
        ({"a": {"_target_": "b"}}, dict[str, int], True),
        ({"a": 1.0}, Mapping[str, float], True), ({"a": "b"}, dict[str, float], False),
        ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
        # of these YAML has no values: it is not for us to judge
        ("anything", object, True), ("a.txt", Path, True), ("a", str | Path, True),
        ({"a": 1}, nn.Module, True),
        ({"a": 1}, "no type", True),
    ],
)  # fmt: skip
def test_what_an_annotation_can_mean(value, hint, is_fit):
    assert fits(value, hint) is is_fit
