import zipfile

import numpy as np
import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.files.arrays import layout_problem, read_arrays, write_arrays

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
    with pytest.raises(UserError, match=r"s\.npz cannot be read as \.npz: File is not a zip file"):
        read_arrays(path, LAYOUT)


def npy(shape, content, descr="<f8"):
    """A .npy file of a shape that its content need not have."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**12,), b"\0" * 8), "Unable to allocate 7.28 TiB"),
        (npy((10**9,), b"\0" * 8), "EOF: reading array data"),
        (npy((2, -4), b"\0" * 64), "negative dimensions"),
        (npy((2**40, 2**40), b""), "cannot reshape"),
        (npy((10**12,), b"", "<U0"), "no bytes for 1,000,000,000,000 values"),
        (npy((1,), b"\0" * 8, "|O"), "Object arrays cannot be loaded"),
        (npy((1,), b"")[:40], "EOF: reading array header"),
        (npy("(" * 500, b""), ""),
        (b"\x80\x04cposix\nsystem\n.", "the magic string is not correct"),
    ],
)
def test_arrays_that_lie_are_refused_before_memory_is_taken(tmp_path, content, message):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("points.npy", content)
    with pytest.raises(UserError, match=f"{path}: points cannot be read as .npy: .*{message}"):
        read_arrays(path, LAYOUT)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, points=np.zeros(10**6), unused=np.zeros(10**6))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="unpacks to 8,000,128 bytes; 8,000,000 are allowed"):
        read_arrays(path, LAYOUT, 8_000_000)
    assert read_arrays(path, LAYOUT, 8_000_200)["points"].shape == (10**6,)
