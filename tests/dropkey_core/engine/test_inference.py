import copy
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from dropkey_core.engine.inference import (
    choose_records,
    find_run_files,
    load_trained,
    read_model_weights,
)


@pytest.fixture
def config():
    model = {"_target_": "builtins.dict"}
    records = [{"file_name": f"{n}.png"} for n in range(10)]
    test = {"dataset": {"_target_": "builtins.list", "_args_": [records]}}
    return OmegaConf.create(
        {"model": model, "dataloader": {"test": test}, "train": {"device": "cpu"}}
    )


def linear(inputs, outputs, pretrained_backbone):
    assert not pretrained_backbone  # weights come from the checkpoint, none are fetched
    return torch.nn.Linear(inputs, outputs)


def test_model_has_the_weights_and_the_settings_and_the_config_stays_as_it_is(
    config, tmp_path, capsys
):
    path = str(tmp_path / "w.pth")
    weights = torch.nn.Linear(3, 2).state_dict()
    torch.save({"model": weights}, path)
    target = f"{__name__}.linear"
    config.model = {"_target_": target, "inputs": 3, "outputs": 7, "pretrained_backbone": True}
    before = copy.deepcopy(config)
    content = read_model_weights(path, "a linear map", "weight")
    model = load_trained(config, path, content, {"outputs": 2})
    torch.testing.assert_close(model.state_dict(), weights)
    assert not model.training and config == before
    assert path in capsys.readouterr().out


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"bias": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth is no checkpoint of DETR: it has no class_embed"):
        read_model_weights(str(tmp_path / "w.pth"), "DETR", "class_embed")


def test_records_are_spread_over_the_set_or_the_images(config, tmp_path):
    records, said = choose_records(config, None, 5)
    assert [record["file_name"] for record in records] == [f"{n}.png" for n in range(0, 10, 2)]
    assert said == "5 of 10 images"
    for name in "ab":
        (tmp_path / f"{name}.png").touch()
    records, said = choose_records(config, [str(tmp_path)], 5)
    assert records == [{"file_name": str(tmp_path / f"{name}.png")} for name in "ab"]
    assert said == "2 of 2 images"


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has a config and its last checkpoint."""
    for name in ("config.yaml", "last.pth"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_run_fills_what_is_not_given(run):
    found = str(run / "config.yaml"), str(run / "last.pth"), run / "pictures"
    assert find_run_files(run, None, None, None) == found
    given = ("c.yaml", "w.pth", Path("out"))
    assert find_run_files(run, *given) == given
    assert find_run_files(None, "c.yaml", "w.pth", None) == ("c.yaml", "w.pth", None)


def test_the_best_checkpoint_comes_first(run):
    (run / "best.pth").touch()
    assert find_run_files(run, None, None, None)[1] == str(run / "best.pth")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, "w.pth", None), "nothing to show: give --run FOLDER"),
        ((None, "c.yaml", None, None), "no weights to look at: give --weights FILE"),
        ((Path("none"), None, None, None), "none is no folder of a run: it has no config.yaml"),
    ],
)
def test_what_is_missing_is_named(given, message):
    with pytest.raises(UserError, match=message):
        find_run_files(*given)


def test_a_run_without_checkpoint(run):
    (run / "last.pth").unlink()
    with pytest.raises(UserError, match=r"no checkpoint yet, neither best\.pth nor last\.pth"):
        find_run_files(run, None, None, None)
