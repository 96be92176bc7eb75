import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import tv_tensors

from dropkey_core.engine import (
    UserError,
    failed_step,
    load_config,
    read_checkpoint,
    replay_step,
    train,
)
from dropkey_core.engine.failed_step import FirstNotFinite, write_failed_step
from dropkey_core.engine.trainer import Trainer

NAN = float("nan")
FILE = Path("output/failed_step_0000006.pth")


def config(*overrides):
    return load_config("toy.yaml", list(overrides))


@pytest.fixture
def spoil(monkeypatch, toy_folder):
    """Lets something happen to the model or the batch when a step begins."""
    train_step = Trainer.train_step

    def register(action, step=6):
        def spoiled(trainer, batch):
            if trainer.step == step:
                action(trainer.model, batch)
            return train_step(trainer, batch)

        monkeypatch.setattr(Trainer, "train_step", spoiled)

    return register


def spoil_weight(model, batch):
    model.head.weight.data[0, 2] = NAN


def spoil_image(model, batch):
    batch[1]["image"] = batch[1]["image"].float()
    batch[1]["image"][0, 1, 1] = NAN


def spoil_target(model, batch):
    batch[2]["image_id"] = float("inf")


def spoil_gradient(model, batch):
    model.backbone.bias.register_hook(lambda gradient: gradient / 0)


LOSS = r"step 6: the loss is not finite \(loss_l2 {0}, loss_l1 {0}\); image ids "
COMMAND = f"tools/train_net.py --config output/config.yaml --replay {FILE}"
REMEDY = f"try a lower optimizer.lr; again with: {COMMAND}"


@pytest.mark.parametrize(
    ("action", "reason", "first"),
    [
        (spoil_weight, LOSS.format("nan"), "the weights head.weight"),
        (spoil_image, LOSS.format("nan"), r"'image' of image \d"),
        (spoil_target, LOSS.format("inf"), "'image_id' of image inf"),
    ],
)
def test_loss_that_is_no_number(spoil, capsys, action, reason, first):
    spoil(action)
    with pytest.raises(UserError, match=rf"^{reason}.*; {REMEDY}$"):
        train(config())
    assert read_checkpoint("output/last.pth")["step"] == 5  # as it was
    capsys.readouterr()
    with pytest.raises(UserError, match=rf"^step 6 of {FILE} fails: first not finite is {first}$"):
        replay_step(config(), FILE)
    assert "the terms are the same to the last bit" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["dropkey_core.engine.ClippedAdamW", "torch.optim.AdamW"])
def test_gradient_that_is_no_number_reaches_no_weight(spoil, capsys, optimizer):
    spoil(spoil_gradient)
    text = Path("toy.yaml").read_text().replace("dropkey_core.engine.ClippedAdamW", optimizer)
    Path("toy.yaml").write_text(text.replace("  max_norm: 0.1\n", ""))  # our default anyway
    what = r"the gradients are not finite: .*, and 1 of 4 hold NaN or inf \(backbone.bias\)"
    with pytest.raises(UserError, match=rf"^step 6: {what}; image .*; {REMEDY}$"):
        train(config("train.checkpointer.period=1"))
    kept, last = read_checkpoint(FILE), read_checkpoint("output/last.pth")
    assert kept["step"] == last["step"] == 6
    for name, weight in last["model"].items():  # those before the step
        assert torch.equal(kept["model"][name], weight)
    terms = replay_step(config("train.checkpointer.period=1"), FILE)  # the hook is gone
    assert terms == kept["terms"]
    said = capsys.readouterr().out
    assert "the terms are the same to the last bit" in said
    assert "all finite" in said


def test_a_failed_step_is_no_checkpoint_and_blocks_nothing(spoil, toy_folder):
    whole = train(config("train.output_dir=whole"))
    spoil(spoil_image)
    with pytest.raises(UserError):
        train(config())
    with pytest.raises(UserError, match="again with"):  # nothing has changed
        train(config(), resume=True)
    spoil(lambda model, batch: None)
    assert train(config(), resume=True) == whole
    assert FILE.exists()
    train(config("train.max_iter=1"), overwrite=True)
    assert not FILE.exists()


def test_failure_in_the_first_step_leaves_a_folder_to_begin_in(spoil):
    spoil(spoil_weight, step=0)
    with pytest.raises(UserError, match="step 0: the loss"):
        train(config())
    assert Path("output/failed_step_0000000.pth").exists()
    spoil(lambda model, batch: None)
    train(config("train.max_iter=1"))


def test_full_disk_does_not_hide_the_loss(spoil, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def action(model, batch):
        spoil_weight(model, batch)
        monkeypatch.setattr(os, "fsync", full)

    spoil(action)
    with pytest.raises(UserError, match=r"^step 6: the loss .* the step is not kept: .* No space"):
        train(config())
    assert not FILE.exists()
    assert read_checkpoint("output/last.pth")["step"] == 5


def test_other_settings_may_help(spoil, capsys, toy_folder):
    spoil(spoil_target)
    with pytest.raises(UserError):
        train(config("optimizer.max_norm=3.0"))
    content = torch.load(FILE, weights_only=True)
    content["batch"][2]["image_id"] = 3
    torch.save(content, FILE)
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    settings = ["model.drop_ratio=0.0", "train.output_dir=x", "train.max_iter=9"]
    terms = replay_step(config(*settings), FILE)
    assert all(np.isfinite(value) for value in terms.values())
    said = capsys.readouterr().out
    (changed,) = re.findall(r"changed since then: (.*)", said)
    assert set(changed.split("; ")) == {
        "model.drop_ratio unset -> 0.0", "optimizer.max_norm 3.0 -> 0.1", "train.max_iter 12 -> 9"
    }  # fmt: skip
    assert re.search(r"loss_l2: inf then, \d.* now\n.*the terms are not the same", said, re.S)
    after = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert after == before


def test_weights_of_another_model_are_refused(spoil):
    spoil(spoil_weight)
    with pytest.raises(UserError):
        train(config())
    content = torch.load(FILE, weights_only=True)
    content["model"]["head.weight"] = torch.zeros(2, 8)  # would be renewed in a new run
    torch.save(content, FILE)
    with pytest.raises(UserError, match=r"mis-shaped: .*head.weight \(2, 8\)"):
        replay_step(config(), FILE)


def test_a_checkpoint_is_no_failed_step(toy_folder):
    train(config("train.max_iter=1"))
    with pytest.raises(UserError, match=r"is no failed step: name a failed_step_\*\.pth"):
        replay_step(config(), "output/last.pth")


def test_batch_of_what_mappers_make(tmp_path):
    big = torch.arange(10.0**6)
    sample = {
        "image_id": 3,
        "view": big[:2],
        "boxes": tv_tensors.BoundingBoxes(torch.ones(1, 4), format="XYXY", canvas_size=(5, 5)),
        "array": np.arange(3, dtype=np.int16),
        "scalar": np.float32(1.5),
        "path": Path("a/b.jpg"),
        "nested": {"words": ["a", ("b", None, True)]},
        "transform": nn.Identity(),
        "names": np.array(["a", None]),
    }
    state = {"step": 3, "rank": 1, "batch": [sample]}
    error = write_failed_step(tmp_path, state, "it failed")
    path = tmp_path / "failed_step_0000003_rank1.pth"
    assert str(error).endswith(f"--replay {path}")
    (kept,) = torch.load(path, weights_only=True)["batch"]
    assert kept["view"].tolist() == [0, 1]
    assert path.stat().st_size < 10_000  # not all that the view looks at
    assert type(kept["boxes"]) is torch.Tensor
    assert kept["array"].dtype == torch.int16
    assert {name: kept[name] for name in ("image_id", "scalar", "path", "nested")} == {
        "image_id": 3, "scalar": 1.5, "path": "a/b.jpg", "nested": sample["nested"]
    }  # fmt: skip
    assert (kept["transform"], kept["names"]) == ("Identity()", "['a' None]")


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (lambda loss: loss * 0 + 3e38, "sum of the terms"),
        (lambda loss: loss * 1e36, "norm of the grad"),
    ],
)
def test_finite_numbers_that_overflow_together(spoil, monkeypatch, spoilt, message):
    spoil(spoil_weight)
    with pytest.raises(UserError):
        train(config())
    content = torch.load(FILE, weights_only=True)
    content["model"]["head.weight"].fill_(1.0)
    torch.save(content, FILE)
    build = failed_step.build_model

    def build_spoilt(*arguments, **settings):
        model = build(*arguments, **settings)
        model.register_forward_hook(lambda *call: {k: spoilt(v) for k, v in call[-1].items()})
        return model

    monkeypatch.setattr(failed_step, "build_model", build_spoilt)
    with pytest.raises(UserError, match=f"first not finite is the {message}"):
        replay_step(config(), FILE)


def test_the_first_that_is_not_finite():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 1)))
    found = FirstNotFinite(model, [])
    model(torch.ones(1, 2)).sum().backward()
    assert found.where == ""
    model(torch.full((1, 2), 3e38) * torch.tensor([1, -1])).sum()
    model[1][1].weight.data.fill_(NAN)
    model(torch.ones(1, 2))
    assert found.where in ("the output of 0 (Linear)", "the output of 1.1 (Linear)")


def test_the_first_gradient_that_is_not_finite():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    found = FirstNotFinite(model, [])
    hidden = model[0](torch.ones(1, 1))
    hidden.register_hook(lambda gradient: gradient * NAN)
    model[1](hidden).sum().backward()
    assert found.where in ("the gradient of 0.weight", "the gradient of 0.bias")
