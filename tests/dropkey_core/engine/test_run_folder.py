from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from dropkey_core.engine.run_folder import find_run_files, prepare_folder


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


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (True, False), (False, True)])
def test_a_run_of_detectron2_is_left_alone(tmp_path, resume, overwrite):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(UserError, match=r"a run of detectron2, .* --weights .*model_final\.pth"):
        prepare_folder(tmp_path, OmegaConf.create(), resume, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["last_checkpoint"]


def test_our_own_run_goes_on_beside_a_checkpoint_of_detectron2(run):
    (run / "last_checkpoint").write_text("model_final.pth")
    prepare_folder(run, OmegaConf.create(), resume=True, overwrite=False)
