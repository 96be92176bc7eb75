from pathlib import Path

from dropkey_core.engine import dataset_path
from dropkey_core.engine.paths import PROJECT_ROOT


def test_environment_variable_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path / "data"))
    assert dataset_path("coco/train2017") == tmp_path / "data" / "coco" / "train2017"


def test_working_folder_comes_before_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("DROPKEY_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert dataset_path("coco") == PROJECT_ROOT / "datasets" / "coco"
    (tmp_path / "datasets").mkdir()
    assert dataset_path("coco") == tmp_path / "datasets" / "coco"


def test_absolute_path_stays(monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", "/data")
    assert dataset_path("/elsewhere/images") == Path("/elsewhere/images")


def test_working_folder_where_the_datasets_have_nothing(monkeypatch, tmp_path):
    root = tmp_path / "data"
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("DROPKEY_DATASETS", str(root))
    monkeypatch.chdir(tmp_path)
    assert dataset_path("mine") == tmp_path / "mine"
    (root / "mine").mkdir(parents=True)
    assert dataset_path("mine") == root / "mine"
    assert dataset_path("nowhere") == root / "nowhere"
