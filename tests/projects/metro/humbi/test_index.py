from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dropkey_core.engine import UserError
from projects.metro.humbi.index import LAYOUT, joined, read_index, write_index
from tests.projects.metro.humbi_set import index_of


def assert_same(found, expected):
    for name in LAYOUT:
        assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype.kind == getattr(expected, name).dtype.kind


def test_an_index_is_read_back(tmp_path):
    index = index_of(3)
    write_index(tmp_path / "new" / "index.npz", index)
    found = read_index(tmp_path / "new" / "index.npz")
    assert_same(found, index)
    assert found.K.dtype == np.float64
    assert found.poses.dtype == np.float32
    assert len(found) == 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index.npz"]


def test_pictures_have_derived_names():
    name = "Body_1_8/subject_3/body/00000031/image/image0000005.jpg"
    assert index_of(3).file_name(2) == name


def test_joined_tables_point_to_their_own_rows():
    whole = joined([index_of(3), index_of(7)])
    assert whole.subject_ids.tolist() == [3, 7]
    assert whole.camera_subjects.tolist() == [0, 0, 0, 1, 1, 1]
    assert whole.frame_subjects.tolist() == [0, 0, 1, 1]
    assert whole.view_frames.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert whole.view_cameras.tolist() == [0, 2, 1, 2, 3, 5, 4, 5]
    assert whole.file_name(6) == "Body_1_8/subject_7/body/00000031/image/image0000005.jpg"
    assert_array_equal(whole.K[4], index_of(7).K[1])
    assert_array_equal(whole.poses[3], index_of(7).poses[1])


def changed(name, value, position=0):
    """An index with one entry of a column replaced."""
    index = index_of(3)
    column = np.array(getattr(index, name))
    column[position] = value
    return replace(index, **{name: column})


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (changed("poses", np.nan), "poses holds NaN or infinity"),
        (changed("subject_folders", "../other/body"), "'../other/body', which is not below"),
        (changed("subject_folders", "/etc"), "'/etc', which is not below the index's folder"),
        (changed("subject_folders", ""), "subject_folders has '', which is not below"),
        (replace(index_of(3), betas=np.zeros((2, 9))), r"betas has shape \(2, 9\), not \(2, 10\)"),
        (replace(index_of(3), scales=np.ones(3)), r"scales has shape \(3,\), not \(2,\)"),
    ],
)
def test_what_is_wrong_with_an_index_is_named(tmp_path, index, message):
    path = tmp_path / "index.npz"
    with pytest.raises(UserError, match=f"cannot write {path}: .*{message}"):
        write_index(path, index)
    assert not path.exists()
    np.savez(path, **{name: getattr(index, name) for name in LAYOUT})
    with pytest.raises(UserError, match=f"{path} is not an index of this project: .*{message}"):
        read_index(path)


def test_a_missing_index_or_column_is_named(tmp_path):
    with pytest.raises(UserError, match=r"index not found: .*prepare_humbi\.py"):
        read_index(tmp_path / "no.npz")
    arrays = {name: getattr(index_of(3), name) for name in LAYOUT if name != "C"}
    np.savez(tmp_path / "index.npz", **arrays)
    with pytest.raises(UserError, match="it has no array 'C'"):
        read_index(tmp_path / "index.npz")
