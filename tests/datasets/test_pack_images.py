import numpy as np
import pytest
import torch
from torchvision.io import decode_jpeg, encode_jpeg, read_file

from projects.classification import load_image_folder, load_packed
from tests.projects.classification.image_files import noise, write_image_folder


@pytest.fixture
def main(load_script):
    return load_script("datasets/pack_images").main


def test_packed_and_read_again(main, tmp_path, capsys):
    write_image_folder(tmp_path / "images", splits=("train", "val"), count=2)
    output = tmp_path / "new" / "packed.npz"
    assert main([str(tmp_path / "images"), str(output)]) == 0
    assert "4 + 4 images of 2 classes" in capsys.readouterr().out
    files = load_image_folder(tmp_path / "images", "val")
    packed = load_packed(output, "test")
    assert packed.classes == files.classes == ["n01", "n02"]
    assert [r["label"] for r in packed] == [r["label"] for r in files]
    start, end = packed.offsets[:2]
    as_it_was = read_file(files[0]["file_name"]).numpy()
    np.testing.assert_array_equal(packed.jpeg[start:end], as_it_was)  # a JPEG file, untouched
    # A PNG file, encoded.
    assert torch.equal(packed[1]["image"], decode_jpeg(encode_jpeg(noise(102), quality=95)))


def test_what_cannot_be_packed(main, tmp_path, capsys):
    write_image_folder(tmp_path, splits=("train",), count=2)
    output = tmp_path / "packed.npz"
    assert main([str(tmp_path), str(output)]) == 2
    assert "images not found" in capsys.readouterr().err
    assert main([str(tmp_path), str(output), "--quality", "0"]) == 2
    assert "--quality must be from 1 to 100, got 0" in capsys.readouterr().err
    write_image_folder(tmp_path, splits=("test",), count=2)
    (tmp_path / "test/n01/n01_0.JPEG").write_bytes(torch.zeros(9).numpy().tobytes())
    assert main([str(tmp_path), str(output)]) == 2
    assert "n01_0.JPEG cannot be read as an image" in capsys.readouterr().err
    assert not output.exists()
