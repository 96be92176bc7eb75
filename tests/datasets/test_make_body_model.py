import numpy as np
import pytest

from projects.metro.body.model import read_body, read_origin

pytestmark = pytest.mark.slow


@pytest.fixture
def script(load_script, monkeypatch, small_mannequin):
    """The script, with a body that takes no time."""
    module = load_script("datasets/make_body_model")
    monkeypatch.setattr(module, "make_mannequin", lambda: small_mannequin)
    return module


def test_the_body_is_written_once(script, small_mannequin, tmp_path, capsys, monkeypatch):
    output = tmp_path / "made" / "body.npz"
    assert script.main(["--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: written\n"
    np.testing.assert_array_equal(read_body(output).template, small_mannequin.template)
    assert read_origin(output) == script.ORIGIN
    before = output.stat().st_mtime_ns
    assert script.main(["--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: already there\n"
    assert output.stat().st_mtime_ns == before
    monkeypatch.setattr(script, "ORIGIN", "another version")
    assert script.main(["--output", str(output)]) == 2
    assert "holds another body; delete it or choose another --output" in capsys.readouterr().err


def test_by_default_it_goes_below_the_dataset_root(script, tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    assert script.main([]) == 0
    assert (tmp_path / "body" / "mannequin.npz").is_file()
