import json

import pytest
import torch

from projects.classification import build_model
from tests.projects.classification.conftest import TINY


@pytest.fixture
def main(load_script):
    return load_script("tools/export").main


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny classifier that brings its config along, as training writes it."""
    settings = {"num_classes": 4, "image_size": 8, "architecture_options": TINY}
    torch.manual_seed(0)
    state = build_model("t2t_vit_14", **settings).state_dict()
    mapper = {"_target_": "projects.classification.ClassificationMapper", "training": False}
    config = {"model": {"_target_": "projects.classification.build_model", **settings}}
    config |= {"dataloader": {"test": {"mapper": {**mapper, "image_size": 8}}}}
    config |= {"train": {"device": "cuda"}}
    torch.save({"model": state, "config": json.dumps(config)}, tmp_path / "best.pth")
    return str(tmp_path / "best.pth")


@pytest.mark.slow
def test_says_how_much_differs_and_writes(main, checkpoint, tmp_path, capsys):
    output = tmp_path / "model.pt2"
    command = ["--weights", checkpoint, "--format", "torch", "--output", str(output)]
    assert main(command) == 0
    *_, difference, written = capsys.readouterr().out.splitlines()
    assert difference.startswith("logits: differs from the model by ")
    assert written == f"written: {output}"
    logits = torch.export.load(output).module()(images=torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    assert logits[0].shape == (3, 4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "16x8"], "error: this model takes 8 x 8 pixels alone"),
        (["--model", "nowhere.pth"], "error: no checkpoint at nowhere.pth"),
        (["--model", "nowhere.pth", "--output", "/"], "error: cannot write /: it is a folder"),
        (["model.num_classes=7"], "error: the weights of "),
    ],
)
def test_errors_are_one_line(main, checkpoint, tmp_path, capsys, more, message):
    assert main(["--run", checkpoint, "--output", str(tmp_path / "out.onnx"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("size", ["480", "480x", "0x480", "axb"])
def test_a_size_reads_height_x_width(main, size, capsys):
    with pytest.raises(SystemExit):
        main(["--model", "m", "--output", "o", "--size", size])
    assert "reads HEIGHTxWIDTH, such as 480x640, not" in capsys.readouterr().err
