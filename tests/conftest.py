import shutil
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy"


@pytest.fixture
def toy_folder(tmp_path, monkeypatch):
    """An empty working folder with toy.yaml, whose targets can be imported."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOY / "toy.yaml", tmp_path)
    return tmp_path
