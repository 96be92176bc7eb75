import numpy as np
import pytest
import torch
from torchvision.io import decode_jpeg

from dropkey_core.engine import UserError
from dropkey_core.engine.files.arrays import write_arrays
from projects.classification import load_packed
from tests.projects.classification.image_files import write_packed


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "packed.npz"
    return path, write_packed(path, num_classes=3, count=2)


def test_records(packed):
    path, arrays = packed
    images = load_packed(path, "test")
    assert len(images) == 6
    assert images.classes == ["class 0", "class 1", "class 2"]
    record = images[4]
    assert (record["label"], record["image_id"]) == (1, 4)
    start, end = arrays["test_offsets"][4:6]
    alone = decode_jpeg(torch.tensor(arrays["test_jpeg"][start:end]))
    assert torch.equal(record["image"], alone)
    assert not torch.equal(load_packed(path, "train")[4]["image"], alone)
    assert images[5]["image"].shape == (3, 32, 32)  # the last one
    with pytest.raises(IndexError):
        images[6]


def test_some_of_each_class(packed):
    images = load_packed(packed[0], "train", per_class=1)
    assert [record["image_id"] for record in images] == [0, 1, 2]


def test_missing_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match=r"not found: .*none\.npz .*dataset\.file.*pack_images"):
        load_packed("none.npz", "train")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train_labels", lambda a: a + 1, "labels must be from 0 to 2"),
        ("train_labels", lambda a: a[1:], "5 labels need 6 offsets, got 7"),
        ("train_offsets", lambda a: a + 1, "offsets must rise from 0"),
        ("train_offsets", lambda a: a[[0, 2, 1, 3, 4, 5, 6]], "offsets must rise from 0"),
        ("train_jpeg", lambda a: a.astype(np.int16), "of int16, not uint8"),
        ("train_jpeg", lambda a: a.astype(float), "train_jpeg is of float64"),
        ("classes", lambda a: None, "no array 'classes'"),
    ],
)
def test_arrays_that_do_not_fit(packed, name, change, message):
    path, arrays = packed
    changed = {**arrays, name: change(arrays[name])}
    write_arrays(path, {name: array for name, array in changed.items() if array is not None})
    with pytest.raises(UserError, match=f"packed.npz is no file of packed images.*{message}"):
        load_packed(path, "train")


def test_a_damaged_image_is_named(packed):
    path, arrays = packed
    jpeg = arrays["train_jpeg"].copy()
    jpeg[arrays["train_offsets"][2] : arrays["train_offsets"][3]] = 0
    write_arrays(path, {**arrays, "train_jpeg": jpeg})
    images = load_packed(path, "train")
    assert images[1]["image"].shape == (3, 32, 32)
    with pytest.raises(UserError, match=r"packed\.npz: image 2 is damaged"):
        images[2]


def test_objects_are_not_unpickled(packed):
    path, arrays = packed
    np.savez(path, **{**arrays, "classes": np.array([{}, [], ()], dtype=object)})
    with pytest.raises(UserError, match=r"classes cannot be read as .npy: Object arrays"):
        load_packed(path, "train")
