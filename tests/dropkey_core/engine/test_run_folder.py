import pytest
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from dropkey_core.engine.run_folder import prepare_folder


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (True, False), (False, True)])
def test_a_run_of_detectron2_is_left_alone(tmp_path, resume, overwrite):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(UserError, match=r"a run of detectron2, .* --weights .*model_final\.pth"):
        prepare_folder(tmp_path, OmegaConf.create(), resume, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["last_checkpoint"]


def test_our_own_run_goes_on_beside_a_checkpoint_of_detectron2(tmp_path):
    for name in ("config.yaml", "last.pth", "last_checkpoint"):
        (tmp_path / name).touch()
    prepare_folder(tmp_path, OmegaConf.create(), resume=True, overwrite=False)
