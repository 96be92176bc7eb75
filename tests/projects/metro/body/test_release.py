import pickle

import numpy as np
import pytest

from dropkey_core.engine import UserError
from projects.metro.body.release import (
    read_coarse_meshes,
    read_h36m_regressor,
    read_release,
    read_smpl,
)
from projects.metro.body.skeleton import SMPL_PARENTS
from tests.projects.metro import smpl_like

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays():
    return smpl_like.smpl_arrays()


@pytest.fixture
def written(tmp_path):
    """Writes bytes, or a pickle of a document, to a file."""

    def write(content, name="smpl.pkl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        return path

    return write


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_pickle_full_of_chumpy_is_read_without_it(arrays, written, protocol):
    path = written(smpl_like.chumpy_pickle(arrays, protocol))
    with pytest.raises(ModuleNotFoundError, match="chumpy"):
        pickle.loads(path.read_bytes())
    for name, found in read_smpl(path).items():
        np.testing.assert_array_equal(found, arrays[name], err_msg=name)


def test_copies_without_chumpy_are_read(arrays, written):
    for content in (arrays, smpl_like.npz_of(**arrays)):
        for name, found in read_smpl(written(content)).items():
            np.testing.assert_array_equal(found, arrays[name], err_msg=name)


def test_a_body_is_made_of_the_three_files(arrays, written):
    regressor = np.random.default_rng(1).dirichlet(np.full(smpl_like.V, 0.01), size=17)
    body = read_release(
        written(smpl_like.chumpy_pickle(arrays, 2)),
        written(smpl_like.npy(regressor), "h36m.npy"),
        written(smpl_like.downsampling(arrays["f"]), "down.npz"),
    )
    np.testing.assert_array_equal(body.template, arrays["v_template"])
    np.testing.assert_array_equal(body.shape_directions, arrays["shapedirs"][:, :, :10])
    np.testing.assert_array_equal(body.h36m_regressor, regressor)
    assert body.parents.tolist() == list(SMPL_PARENTS)
    # Every third vertex, and of these every third again.
    np.testing.assert_array_equal(body.coarse_vertices[0], 3 * np.arange(1723))
    np.testing.assert_array_equal(body.coarse_vertices[1], 9 * np.arange(431))
    assert (body.coarse_faces_1.shape, body.coarse_faces_2.shape) == ((3442, 3), (858, 3))
    assert body.coarse_faces_2[1].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v_template": np.zeros((6889, 3))}, r"v_template has shape \(6889, 3\), not \(6890, 3\)"),
        ({"posedirs": np.zeros((6890, 3, 9))}, r"posedirs has shape .*, not \(6890, 3, 207\)"),
        ({"v_template": None}, "smpl.pkl: v_template is a NoneType, not an array"),
        ({"weights": np.full((6890, 24), np.nan)}, "is not SMPL: weights holds NaN or infinity"),
        ({"kintree_table": np.zeros((2, 24), int)}, "gives parents .* which are not SMPL's"),
    ],
)
def test_what_is_not_smpl_is_told_in_one_line(arrays, written, changes, message):
    unread = written(b"", "unread")
    with pytest.raises(UserError, match=message) as caught:
        read_release(written({**arrays, **changes}), unread, written_downsampling(written, arrays))
    assert "\n" not in str(caught.value)


def written_downsampling(written, arrays):
    return written(smpl_like.downsampling(arrays["f"]), "down.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"f": np.ones(2)}, "is not SMPL: it has no array 'v_template'"),
        ([1, 2], "is not SMPL: it holds a list, not a dict"),
        (b"<!DOCTYPE html>", "cannot be read as pickled arrays"),
        (b"PK\x03\x04 and so on", "cannot be read as .npz"),
        (smpl_like.npz_of(f=np.ones(3)), "it has no array 'v_template'"),
        (smpl_like.npz_of(v_template=b"cos\nsystem\n."), "v_template cannot be read as .npy"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "smpl.pkl .* it names __builtin__.eval"),
    ],
)
def test_other_files_are_told_in_one_line(written, content, message):
    with pytest.raises(UserError, match=message):
        read_smpl(written(content))


def test_a_file_that_ends_early_is_told(arrays, written):
    whole = smpl_like.chumpy_pickle(arrays, 2)
    for part in (whole[: len(whole) // 2], whole[:-1], whole[:100]):
        with pytest.raises(UserError, match=r"smpl.pkl cannot be read as pickled arrays"):
            read_smpl(written(part))


def test_missing_files_say_where_they_are_had(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*smpl.pkl; SMPL is at https://smpl.is"):
        read_smpl(tmp_path / "smpl.pkl")
    with pytest.raises(UserError, match=r"J_regressor_h36m_correct.npy is at https://github"):
        read_h36m_regressor(tmp_path / "h.npy")
    with pytest.raises(UserError, match=r"mesh_downsampling.npz is at https://github"):
        read_coarse_meshes(tmp_path / "m.npz", np.zeros((1, 3)))


FACES = [np.zeros((1, 3), int)] * 2


def twice_chosen(fewer, more):
    found = np.zeros((fewer, more))
    found[np.arange(fewer), np.arange(fewer)] = 1
    found[5, 6] = 1
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"D": [np.eye(3), np.eye(3)]}, r"D\[0\] has shape \(3, 3\), not \(1723, 6890\)"),
        ({"D": [twice_chosen(1723, 6890), 0]}, r"D\[0\] does not choose vertices"),
        ({"D": [1]}, "has 1 coarser meshes, METRO needs 2"),
        ({"D": b"nothing"}, "down.npz: D cannot be read"),
        ({"D": np.ones(3)}, "D cannot be read|D is not"),
        ({"F": [np.array(1), *FACES]}, r"F\[0\] has no triangles of 6,890 vertices"),
        ({"D": smpl_like.object_npy(b"cposix\nsystem\n.")}, "it names posix.system"),
    ],
)
def test_what_is_not_metros_downsampling_is_told(arrays, written, changes, message):
    changes = {
        name: smpl_like.object_array(value) if isinstance(value, list) else value
        for name, value in changes.items()
    }
    path = written(smpl_like.downsampling(arrays["f"], **changes), "down.npz")
    with pytest.raises(UserError, match=message):
        read_coarse_meshes(path, arrays["f"])


def test_the_coarse_meshes_belong_to_smpls(arrays, written):
    path = written_downsampling(written, arrays)
    other = arrays["f"].copy()
    other[0] = [5, 6, 8]
    with pytest.raises(UserError, match=r"belongs to another mesh: F\[0\] is not the faces"):
        read_coarse_meshes(path, other)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.ones((14, 6890)), "is not .* shape"),
        (np.ones((17, 6890), int), "is not .* whole|is not .* int64"),
        (np.full((17, 6890), np.nan), "is not .* holds NaN or infinity"),
        (np.array([{}], object), "cannot be read as .npy"),
    ],
)
def test_the_regressor_is_metros(written, array, problem):
    with pytest.raises(UserError, match=rf"h36m.npy {problem}"):
        read_h36m_regressor(written(smpl_like.npy(array), "h36m.npy"))


def test_coarse_faces_are_of_the_coarse_meshes(arrays, written):
    for faces, level in ((np.full((1, 3), 431), 2), (np.full((1, 3), -1), 1), (np.ones((2, 3)), 1)):
        meshes = [arrays["f"], *FACES]
        meshes[level] = faces
        path = written(smpl_like.downsampling(arrays["f"], F=smpl_like.object_array(meshes)), "m")
        with pytest.raises(UserError, match=rf"F\[{level}\] has no triangles of"):
            read_coarse_meshes(path, arrays["f"])
