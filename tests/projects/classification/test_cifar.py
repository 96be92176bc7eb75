import pickle

import pytest

from dropkey_core.engine import UserError
from projects.classification import cifar, load_cifar
from tests.projects.classification.image_files import write_cifar10


@pytest.fixture
def small(tmp_path, monkeypatch):
    made = write_cifar10(tmp_path / "cifar")
    monkeypatch.setitem(cifar.SETS, "cifar10", made)
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    return tmp_path / "cifar" / "cifar-10-batches-py"


def test_records(small):
    images = load_cifar("cifar10", "test")
    assert len(images) == 20
    assert images.classes[3] == "class 3"
    record = images[13]
    assert (record["label"], record["image_id"]) == (3, 13)
    data = pickle.loads((small / "test_batch").read_bytes())["data"]
    assert record["image"].flatten().tolist() == data[13].tolist()  # red, green, blue, row by row
    assert len(load_cifar("cifar10", "train", per_class=1)) == 10


def test_a_changed_file_is_not_opened(small):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("it was unpickled",)

    (small / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"cifar10 is not in .*not as published.*prepare_cifar"):
        load_cifar("cifar10", "train")


def test_missing_files_and_unknown_names(small):
    with pytest.raises(UserError, match=r"cifar100 is not in .*cifar-100-python.*cifar100$"):
        load_cifar("cifar100", "train")
    with pytest.raises(UserError, match="name must be one of cifar10, cifar100; got 'cifar'"):
        load_cifar("cifar", "train")
    with pytest.raises(UserError, match="split must be one of train, test; got 'val'"):
        load_cifar("cifar10", "val")
