import pytest

from projects.classification import cifar
from tests.projects.classification.image_files import write_cifar10


@pytest.fixture
def main(load_script):
    return load_script("datasets/prepare_cifar").main


def test_what_is_there_is_checked(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(cifar.SETS, "cifar10", write_cifar10(tmp_path))
    assert main(["cifar10", "--output", str(tmp_path)]) == 0  # nothing to fetch
    assert "complete, 20 + 20 images, 10 classes" in capsys.readouterr().out
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"")
    assert main(["cifar10", "--output", str(tmp_path), "--check-only"]) == 2
    assert "not as published" in capsys.readouterr().err


def test_no_way_to_fetch_it(main, tmp_path, monkeypatch, capsys):
    class Unreachable(cifar.SETS["cifar100"]):
        url = (tmp_path / "none.tar.gz").as_uri()

    monkeypatch.setitem(cifar.SETS, "cifar100", Unreachable)
    assert main(["cifar100", "--output", str(tmp_path / "cifar")]) == 2
    error = capsys.readouterr().err
    assert "cannot fetch file:" in error
    assert "download it by other means" in error
