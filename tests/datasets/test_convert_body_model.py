import numpy as np
import pytest

from projects.metro.body.model import read_body, read_origin
from tests.projects.metro import smpl_like

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def convert(load_script):
    return load_script("datasets/convert_body_model").main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with files like SMPL's and METRO's."""
    path = tmp_path_factory.mktemp("smpl")
    arrays = smpl_like.smpl_arrays()
    regressor = np.random.default_rng(1).dirichlet(np.full(smpl_like.V, 0.01), size=17)
    (path / "neutral.pkl").write_bytes(smpl_like.chumpy_pickle(arrays, 2))
    (path / "J_regressor_h36m_correct.npy").write_bytes(smpl_like.npy(regressor))
    (path / "mesh_downsampling.npz").write_bytes(smpl_like.downsampling(arrays["f"]))
    return path


def test_the_files_beside_smpl_are_found(convert, folder, tmp_path, capsys):
    output = tmp_path / "made" / "body.npz"
    assert convert([str(folder / "neutral.pkl"), "--output", str(output)]) == 0
    assert "6,890 vertices, 13,776 faces, coarse meshes of 1,723 and 431" in capsys.readouterr().out
    body = read_body(output)
    np.testing.assert_array_equal(body.template, smpl_like.smpl_arrays()["v_template"])
    assert read_origin(output) == "SMPL, converted from neutral.pkl"


@pytest.mark.parametrize("option", ["--h36m-regressor", "--mesh-downsampling"])
def test_a_missing_file_is_told_in_one_line(convert, folder, tmp_path, capsys, option):
    output = tmp_path / "body.npz"
    arguments = [str(folder / "neutral.pkl"), "--output", str(output), option, "nowhere"]
    assert convert(arguments) == 2
    error = capsys.readouterr().err
    assert "no such file: " in error and "nowhere; " in error and "https://github.com" in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_hostile_file_leaves_nothing(convert, folder, tmp_path, capsys):
    hostile = tmp_path / "smpl.pkl"
    hostile.write_bytes(b"cposix\nsystem\n(S'touch mark'\ntR.")
    output = tmp_path / "body.npz"
    assert convert([str(hostile), "--output", str(output)]) == 2
    assert "it names posix.system" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [hostile]
