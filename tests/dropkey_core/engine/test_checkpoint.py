import argparse
import os
import pickle
import re
from functools import partial

import pytest
import torch
from torch import nn

from dropkey_core.engine import UserError, load_weights, read_checkpoint, write_checkpoint
from dropkey_core.engine.checkpoint import convert_checkpoint


class Net(nn.Module):
    reinitialised_on_mismatch = ("class_embed",)

    def __init__(self, classes=3, width=2):
        super().__init__()
        self.body = nn.Linear(2, width)
        self.class_embed = nn.Linear(width, classes)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}])
def test_loads_bare_and_wrapped_state_dicts(tmp_path, wrap):
    source, target = Net(), Net()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    assert load_weights(target, tmp_path / "w.pth").startswith("loaded 4 of 4 tensors from ")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_loads_official_training_checkpoints_which_keep_their_command_line(tmp_path):
    source, target = Net(), Net()
    content = {"model": source.state_dict(), "epoch": 3, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, tmp_path / "w.pth")
    assert load_weights(target, tmp_path / "w.pth").startswith("loaded 4 of 4 tensors from ")
    assert torch.equal(target.body.weight, source.body.weight)


def test_class_head_of_another_size_stays_fresh_and_is_said(tmp_path):
    source, target = Net(classes=91), Net(classes=3)
    fresh = target.class_embed.weight.clone()
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    said = load_weights(target, tmp_path / "w.pth")
    assert said.startswith("loaded 2 of 4 tensors")
    assert said.endswith("initialised anew, for their shapes differ: "
                         "class_embed.weight, class_embed.bias")  # fmt: skip
    assert torch.equal(target.body.weight, source.body.weight)
    assert torch.equal(target.class_embed.weight, fresh)


class Chooser(Net):
    """A model that refuses a checkpoint of fewer than three epochs."""

    asked = None

    def checkpoint_problem(self, file, content):
        self.asked = file
        return "is too young: train on" if content["epoch"] < 3 else None


def test_a_model_may_refuse_a_checkpoint_whose_weights_fit(tmp_path):
    model, path = Chooser(), tmp_path / "w.pth"
    fresh = model.body.weight.clone()
    torch.save({"model": Net().state_dict(), "epoch": 2}, path)
    with pytest.raises(UserError, match=r"w\.pth \(from --weights\) is too young: train on$"):
        load_weights(model, path)
    assert model.asked == path
    assert torch.equal(model.body.weight, fresh)
    content = {"model": Net().state_dict(), "epoch": 3}
    assert load_weights(model, path, content=content).startswith("loaded 4 of 4 tensors from ")
    assert torch.equal(model.body.weight, content["model"]["body.weight"])


def test_another_architecture_lists_what_differs(tmp_path):
    state = Net(width=5).state_dict()
    state["neck.weight"] = state.pop("body.bias")
    torch.save(state, tmp_path / "w.pth")
    expected = (
        f"the weights of {tmp_path}/w.pth (from --weights) do not fit the model; "
        "missing: 1 (body.bias); unexpected: 1 (neck.weight); "
        "mis-shaped: 1 (body.weight (5, 2) instead of (2, 2))"
    )
    with pytest.raises(UserError, match=re.escape(expected)):
        load_weights(Net(), tmp_path / "w.pth")


def test_long_lists_are_shortened(tmp_path):
    torch.save({f"k{n}": torch.zeros(1) for n in range(9)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"unexpected: 9 \(k0, k1, k2, k3, k4 and 4 more\)"):
        load_weights(Net(), tmp_path / "w.pth")


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def save_pickle(content, path, protocol):
    path.write_bytes(pickle.dumps(content, protocol))


@pytest.mark.parametrize(
    ("save", "what"),
    [
        (torch.save, r"asks to run '(posix|nt).mkdir'"),
        (partial(save_pickle, protocol=2), r"asks to run '(posix|nt).mkdir'"),
        (partial(save_pickle, protocol=5), r"asks to run '(posix|nt).mkdir'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, save, what):
    monkeypatch.chdir(tmp_path)
    save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=rf"evil.pth .* is refused: only tensors .*, and it {what}"):
        load_weights(Net(), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_unreadable_files(tmp_path):
    with pytest.raises(
        UserError, match=r"no checkpoint at none.pth \(from train.init_checkpoint\)"
    ):
        read_checkpoint("none.pth", "train.init_checkpoint")
    for content in (b"", b"no checkpoint", b"PK\x03\x04 half a zip"):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"the checkpoint .*bad.pth"):
            read_checkpoint(tmp_path / "bad.pth")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match="must hold a dict, not a Tensor"):
        read_checkpoint(tmp_path / "tensor.pth")


def test_truncated_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "w.pth", {"model": Net().state_dict()})
    whole = (tmp_path / "w.pth").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "w.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"w.pth"):
            read_checkpoint(tmp_path / "w.pth")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "w.pth", {"step": 1})

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*w\.pth: No space left on device$"):
        write_checkpoint(tmp_path / "w.pth", {"step": 2})
    assert read_checkpoint(tmp_path / "w.pth") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_converted_weights_are_written_alone(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "optimizer": {"x": 1}}, tmp_path / "w.pth")

    def convert(state):
        return {"b": state["a"] + 1}, ["a is b now"]

    assert convert_checkpoint(tmp_path / "w.pth", tmp_path / "c.pth", convert) == ["a is b now"]
    content = read_checkpoint(tmp_path / "c.pth")
    assert set(content) == {"model"}
    assert content["model"]["b"].tolist() == [2, 2]


def test_a_failed_conversion_leaves_the_old_file(tmp_path):
    torch.save({"model": {}}, tmp_path / "w.pth")
    (tmp_path / "c.pth").write_text("old")

    def convert(state):
        raise UserError("not the weights that were expected")

    with pytest.raises(UserError, match="not the weights"):
        convert_checkpoint(tmp_path / "w.pth", tmp_path / "c.pth", convert)
    assert (tmp_path / "c.pth").read_text() == "old"
    with pytest.raises(UserError, match=r"w\.pth would replace the checkpoint that is converted"):
        convert_checkpoint(tmp_path / "w.pth", tmp_path / "w.pth", convert)
