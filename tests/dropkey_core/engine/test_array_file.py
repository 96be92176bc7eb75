import numpy as np
import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.array_file import layout_problem, read_arrays, write_arrays

LAYOUT = {"points": ("f", ("N", 2)), "labels": ("i", ("N",)), "names": ("U", ("K",))}
ARRAYS = {
    "points": np.arange(6.0).reshape(3, 2),
    "labels": np.array([0, 1, 1], np.uint8),
    "names": np.array(["cat", "dog"]),
}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "arrays.npz"
    write_arrays(path, ARRAYS)
    assert [file.name for file in path.parent.iterdir()] == ["arrays.npz"]  # no unfinished one
    arrays = read_arrays(path, {**LAYOUT, "more": ("f", ())})
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert layout_problem(arrays, LAYOUT) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3)}, "labels is of float64, not whole numbers"),
        ({"labels": np.zeros(4, int)}, "labels has shape (4,), not (3,)"),
        ({"points": np.zeros((3, 3))}, "points has shape (3, 3), not (3, 2)"),
        ({"points": np.full((3, 2), np.nan)}, "points holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    assert layout_problem({**ARRAYS, **change}, LAYOUT) == message
    assert layout_problem({}, LAYOUT) == "it has no array 'points'"


def test_files_that_are_not_read(tmp_path):
    path = tmp_path / "arrays.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"arrays\.npz cannot be read as \.npz"):
        read_arrays(path, LAYOUT)
    np.savez(path, points=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        read_arrays(path, LAYOUT)
