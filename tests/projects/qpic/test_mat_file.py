import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from dropkey_core.engine import UserError
from projects.qpic import mat_file
from projects.qpic.mat_file import read_mat

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def array(which, shape, content, name=b""):
    """The element of an array; ``which`` 1: cells, 6: doubles, 17: an object of MATLAB's."""
    flags, sizes = struct.pack("<II", which, 0), struct.pack(f"<{len(shape)}i", *shape)
    return element(14, element(6, flags) + element(5, sizes) + element(1, name) + content)


NUMBER = array(6, (1, 1), element(9, struct.pack("<d", 1.5)))


def nested(depth):
    found = NUMBER
    for level in reversed(range(depth)):
        found = array(1, (1, 1), found, b"a" if level == 0 else b"")
    return found


def packed(content):
    content = zlib.compress(content)
    return struct.pack("<II", 15, len(content)) + content


@pytest.mark.parametrize("compress", [False, True])
def test_what_scipy_writes_is_read(tmp_path, compress):
    struct_ = {"x": np.eye(2), "text": "person", "inner": {"z": 1 + 2j}, "none": []}
    cells = np.array([struct_, 3, np.uint8([[1, 2]])], dtype=object)
    savemat(tmp_path / "a.mat", {"a": cells, "b": struct_}, do_compression=compress)
    found = read_mat(tmp_path / "a.mat", ["a", "b", "c"])
    assert {"a", "b"} == {name for name in found if not name.startswith("__")}
    assert found["a"][0]["text"] == found["b"]["text"] == "person"
    assert found["b"]["inner"]["z"] == 1 + 2j


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + array(1, (2**30, 1), b"", b"a"), "it claims 1,073,741,824 arrays within 0 bytes"),
        (HEADER + packed(array(1, (2**20, 2**20), NUMBER)), "claims 1,099,511,627,776 arrays with"),
        (HEADER + array(1, (-1, -1), NUMBER), "it claims 1 arrays within"),
        (HEADER + packed(nested(100)), "arrays within arrays, too deep"),
        (HEADER + packed(bytes(2**21)), "it unpacks to more than 1,048,576 bytes"),
        (HEADER + array(17, (1, 1), b""), "holds functions or objects"),
        (HEADER + array(1, (1, 1), b"")[:20], "unpack_from requires"),
        (b"MATLAB".ljust(500), "it has no such header"),
        (HEADER[:-4] + b"\x00\x02IM", "it has no such header"),
    ],
)
def test_files_that_lie_are_refused_before_memory_is_taken(tmp_path, content, message, monkeypatch):
    monkeypatch.setattr(mat_file, "loadmat", pytest.fail)
    monkeypatch.setattr(mat_file, "LARGEST_UNPACKED", 2**20)
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} cannot be read as a MATLAB file .*{message}"):
        read_mat(path, ["a"])


def test_depths_that_occur_are_read(tmp_path):
    (tmp_path / "a.mat").write_bytes(HEADER + packed(nested(20)))
    assert read_mat(tmp_path / "a.mat", ["a"])["a"] == 1.5
