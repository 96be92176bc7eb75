import math
import struct

import numpy as np
import pytest
from scipy.io import savemat

from dropkey_core.engine import UserError
from projects.qpic import mat_file
from projects.qpic.mat_file import read_mat

pytestmark = pytest.mark.slow

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def array(which, shape, content, name=b""):
    """The element of an array; ``which`` 1: cells, 6: doubles, 17: an object of MATLAB's."""
    flags, sizes = struct.pack("<II", which, 0), struct.pack(f"<{len(shape)}i", *shape)
    return element(14, element(6, flags) + element(5, sizes) + element(1, name) + content)


@pytest.mark.parametrize("options", [{}, {"do_compression": True}, {"format": "4"}])
def test_what_scipy_writes_is_read(tmp_path, options):
    struct_ = {"x": np.eye(2), "text": "person", "inner": {"z": 1.5}, "none": []}
    cells = np.array([struct_, 3, np.uint8([[1, 2]])], dtype=object)
    contents = {"a": cells, "b": struct_, "d": np.float32([[1, np.inf], [3, 4]]), "e": "kite"}
    if "format" in options:  # which has neither cells nor structs
        del contents["a"], contents["b"]
    savemat(tmp_path / "a.mat", contents, **options)
    found = read_mat(tmp_path / "a.mat", ["a", "b", "c", "d", "e"])
    plain = {"x": [[1, 0], [0, 1]], "text": "person", "inner": {"z": 1.5}, "none": []}
    expected = {"a": [plain, 3, [1, 2]], "b": plain, "d": [[1, math.inf], [3, 4]], "e": "kite"}
    assert found == {name: expected[name] for name in contents}


def test_only_the_named_variables_are_read(tmp_path):
    savemat(tmp_path / "a.mat", {"a": 1, "b": 2})
    assert read_mat(tmp_path / "a.mat", ["b"]) == {"b": 2}


# Numbers of a kind that there is not: scipy 1.17 looks it up in a table, far behind its end.
CRASHING = array(6, (1, 1), element(0x10C, struct.pack("<q", 1)), b"a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + array(1, (2**30, 1), b"", b"a"), "Error"),
        (HEADER + array(1, (1, 1), b"", b"a")[:20], "Error"),
        (HEADER + CRASHING, "it is damaged .scipy ended with SIGSEGV"),
        (b"MATLAB".ljust(500), "ValueError: Unknown mat file type"),
        (HEADER[:-4] + b"\x00\x02IM", "NotImplementedError: Please use HDF reader"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message, monkeypatch):
    monkeypatch.setattr(mat_file, "MOST_MEMORY", 1 << 30)
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} cannot be read as a MATLAB file .*{message}"):
        read_mat(path, ["a"])


def test_bounds_of_memory_time_and_output(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    savemat(path, {"a": np.zeros((3000, 3000))}, do_compression=True)  # 70 KB that hold 72 MB
    for name, bound, message in [
        ("MOST_MEMORY", 200 << 20, "MemoryError"),
        ("MOST_SECONDS", 1, "it takes more than 1 seconds"),
        ("LARGEST_OUTPUT", 1 << 20, "File too large"),
    ]:
        with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
            patch.setattr(mat_file, name, bound)
            read_mat(path, ["a"])
