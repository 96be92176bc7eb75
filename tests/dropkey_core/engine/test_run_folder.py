from pathlib import Path

import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.run_folder import find_run_files


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has a config and its last checkpoint."""
    for name in ("config.yaml", "last.pth"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_run_fills_what_is_not_given(run):
    assert find_run_files(run, None, None, None) == (
        str(run / "config.yaml"),
        str(run / "last.pth"),
        run / "pictures",
    )
    given = ("c.yaml", "w.pth", Path("out"))
    assert find_run_files(run, *given) == given
    assert find_run_files(None, "c.yaml", "w.pth", None) == ("c.yaml", "w.pth", None)


def test_the_best_checkpoint_comes_first(run):
    (run / "best.pth").touch()
    assert find_run_files(run, None, None, None)[1] == str(run / "best.pth")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, "w.pth", None), "nothing to show: give --run FOLDER"),
        ((None, "c.yaml", None, None), "no weights to look at: give --weights FILE"),
        ((Path("none"), None, None, None), "none is no folder of a run: it has no config.yaml"),
    ],
)
def test_what_is_missing_is_named(given, message):
    with pytest.raises(UserError, match=message):
        find_run_files(*given)


def test_a_run_without_checkpoint(run):
    (run / "last.pth").unlink()
    with pytest.raises(UserError, match=r"no checkpoint yet, neither best\.pth nor last\.pth"):
        find_run_files(run, None, None, None)
