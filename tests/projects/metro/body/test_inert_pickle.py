import codecs
import collections
import functools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from dropkey_core.engine import UserError
from projects.metro.body.inert_pickle import Inert, as_array, as_objects, read_pickle

PAIRS = b"N" + b"2\x86" * 40  # pairs of pairs of pairs ...: a terabyte to write out or hash


class Calls:
    """Pickles as a call, as hostile files do."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def mark(tmp_path):
    """A file that code in a pickle would make."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda mark: (os.system, f"touch {mark}"), f"{os.system.__module__}.system"),
        (lambda mark: (eval, f"open({str(mark)!r}, 'w')"), "eval"),
        (lambda mark: (getattr, "text", "upper"), "getattr"),
        (lambda mark: (subprocess.Popen, ["touch", str(mark)]), "Popen"),
        (lambda mark: (functools.partial, os.system, f"touch {mark}"), "functools.partial"),
        (lambda mark: (np.load, str(mark)), "numpy.load"),
        (lambda mark: (codecs.decode, b"x", "zlib"), "_codecs.decode"),
        (lambda mark: (collections.namedtuple, "a", "b"), "collections.namedtuple"),
    ],
)
def test_calls_are_refused_by_name_and_never_made(mark, call, name, protocol):
    hostile = Calls(*call(mark))
    for document in (hostile, {"v_template": [1, (hostile,)]}, np.array([hostile, 1], object)):
        data = pickle.dumps(document, protocol=protocol)
        with pytest.raises(UserError, match=rf"body.pkl .* pickled arrays: it names [\w.]*{name}"):
            read_pickle(data, "body.pkl")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cos\nsystem\n(S'touch mark'\ntR.", "os.system"),
        (b"(S'touch mark'\nios\nsystem\n.", "os.system"),  # INST
        (b"(cos\nsystem\nS'touch mark'\no.", "os.system"),  # OBJ
        (b"cnumpy.core.numeric\nfromfile\n.", "numpy.core.numeric.fromfile"),
        (b"cchumpyx\nCh\n.", "chumpyx.Ch"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "os.system"),
        (b"cos\nsystem\nS'x'\nb.", "os.system"),  # BUILD
        (b"cos\n" + b"s" * 1000 + b"\n.", "os." + "s" * 77),
    ],
)
def test_handwritten_code_is_refused_by_name(data, name):
    with pytest.raises(UserError) as caught:
        read_pickle(data, "body.pkl")
    message = f"body.pkl cannot be read as pickled arrays: it names {name}, which no array needs"
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_be_named_is_not_called_either(monkeypatch):
    """Names that arrays need: neither imported nor called, whatever they are given."""

    class Trap:
        def __getattr__(self, name):
            raise AssertionError(f"looked at chumpy.{name}")

    monkeypatch.setitem(sys.modules, "chumpy", Trap())
    data = b"cchumpy\nos.system\n(S'touch mark'\ntR}S'x'\nI1\nsb."
    found = read_pickle(data, "body.pkl")
    assert isinstance(found, Inert)
    assert found.name == "chumpy.os.system"
    assert found.arguments == ("touch mark",)
    assert found.state == {"x": 1}
    found = read_pickle(b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.", "body.pkl")
    assert (found.name, found.arguments) == ("numpy.ndarray", (5,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        pickle.dumps({"a": 1})[:-2],
        pickle.dumps({"a": np.ones(99)}, protocol=2)[:200],
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f",  # 2**63 bytes are to follow
        b"I1\n(tR.",  # a call of a number
        b"(lp0\ncnumpy\nndarray\na0\x00.",
        b"\x80\x02\x82\x01.",  # an object that other code of this process has registered
        b"Psomewhere\n.",  # an object outside the file
        PAIRS + b"Q.",
    ],
)
def test_what_is_no_pickle_is_told_in_one_line(data):
    with pytest.raises(UserError, match=r"body.pkl cannot be read as pickled arrays: .+") as caught:
        read_pickle(data, "body.pkl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_as_it_is(protocol):
    # An object kept as number 2**31, for which the unpickler in C makes a table of that size.
    assert read_pickle(b"\x80\x02Nr\xff\xff\xff\x7f.", "body.pkl") is None
    document = {"a": [1, 2.5, "\u00e4", None, True, (1, -(2**70))], "b": {"c": b"\x00\xff"}, 3: "d"}
    assert read_pickle(pickle.dumps(document, protocol=protocol), "body.pkl") == document


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"}" + PAIRS + b"Ns.",
        b"}(" + PAIRS + b"Nu.",
        b"(" + PAIRS + b"Nd.",
        b"ccollections\nOrderedDict\n(](" + PAIRS + b"NtatR.",
        b"\x96\xff\xff\xff\xff\x0f\0\0\0ab.",  # 64 GB of bytes are to follow
        b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
    ],
    ids=["key", "keys", "dict", "ordered dict", "bytes", "steps"],
)
def test_what_takes_years_or_terabytes_is_refused_at_once(data):
    with pytest.raises(UserError, match=r"body.pkl cannot be read as pickled arrays: .+"):
        read_pickle(data, "body.pkl")


def test_sets_are_read_as_lists_and_not_hashed():
    assert sorted(reread({1, 2}, protocol=4)) == [1, 2]
    for data in (b"\x8f(" + PAIRS + b"\x90.", b"(" + PAIRS + b"\x91."):
        (pair,) = read_pickle(data, "body.pkl")
        assert isinstance(pair, tuple)


# ---- arrays --------------------------------------------------------------------------------------
def reread(value, protocol=2):
    return read_pickle(pickle.dumps(value, protocol=protocol), "file")


ARRAYS = [
    np.arange(24.0).reshape(2, 3, 4),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6, dtype=">i4").reshape(3, 2),
    np.array([0, 2**32 - 1], np.uint32),
    np.array([True, False]),
    np.array(7.5, np.float32),
    np.zeros((0, 3)),
    np.arange(10)[::2],
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_arrays_are_what_they_were(array, protocol):
    found = as_array(reread(array, protocol), "file")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.flags.writeable


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [sparse.csc_matrix, sparse.csr_matrix, sparse.csc_array])
def test_sparse_matrices_become_dense(kind, protocol):
    array = np.array([[0, 2.0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 5]])
    np.testing.assert_array_equal(as_array(reread(kind(array), protocol), "file"), array)
    repeated = sparse.csc_matrix((np.array([1.0, 2.0]), np.array([1, 1]), np.array([0, 2])), (3, 1))
    assert as_array(reread(repeated), "file").tolist() == [[0], [3], [0]]


def test_modules_of_old_and_new_numpy_and_scipy_are_known():
    array = pickle.dumps(np.arange(3), protocol=2)
    matrix = pickle.dumps(sparse.csc_matrix(np.eye(2)), protocol=2)
    assert b"numpy._core.multiarray" in array or b"numpy.core.multiarray" in array
    old = array.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert as_array(read_pickle(old, "file"), "file").tolist() == [0, 1, 2]
    old = matrix.replace(b"scipy.sparse._csc", b"scipy.sparse.csc")
    assert as_array(read_pickle(old, "file"), "file").tolist() == [[1, 0], [0, 1]]


def test_arrays_of_python_2_are_read():
    """Python 2 has one type for text and bytes; protocols 0 and 2 write it differently."""
    array = np.array([1.5, -2.0, 1e300])
    raw = array.tobytes()
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    quoted = b"S" + repr(raw)[1:].encode() + b"\n"
    binary = b"T" + len(raw).to_bytes(4, "little") + raw
    for data in (quoted, binary):
        whole = head + b"(I1\n(I3\nt" + dtype + b"I00\n" + data + b"tb."
        found = as_array(read_pickle(whole, "file"), "file")
        np.testing.assert_array_equal(found, array)


def test_objects_of_an_array_are_read_one_by_one():
    array = np.empty(2, object)
    array[:] = [np.arange(3), sparse.csc_matrix(np.eye(2))]
    first, second = as_objects(reread(array), "file")
    assert as_array(first, "file").tolist() == [0, 1, 2]
    assert as_array(second, "file").tolist() == [[1, 0], [0, 1]]


def changed(value, **state):
    """An inert array or matrix whose state was tampered with."""
    found = reread(value)
    if isinstance(found.state, dict):
        found.state = {**found.state, **{name: reread(part) for name, part in state.items()}}
    else:
        names = ("version", "shape", "dtype", "is_fortran", "data")
        found.state = tuple(state.get(n, v) for n, v in zip(names, found.state, strict=True))
    return found


def flagged_dtype():
    """An object dtype that claims to consist of plain bytes, which numpy once believed."""
    found = reread(np.dtype("O"))
    found.state = (*found.state[:-1], 0)
    return found


MATRIX = sparse.csc_matrix(np.eye(3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(np.ones(3), shape=(4,)), "cannot reshape array of size 3"),
        (changed(np.ones(3), shape=(9**9999, 2)), "file cannot be read as an array"),
        (changed(np.ones(3), data=[1, 2, 3]), "bytes-like object is required"),
        (changed(np.ones(3), dtype=flagged_dtype()), "no plain numbers"),
        (changed(np.ones(3), dtype="f8"), "file cannot be read as an array"),
        (reread(np.array([1, "a"], object)), "no plain numbers"),
        (reread(np.zeros(2, [("a", int)])), "no plain numbers"),
        (changed(MATRIX, indices=np.array([0, 1, 3])), "out of bounds"),
        (changed(MATRIX, indptr=np.array(3)), "file cannot be read as an array"),
        (changed(MATRIX, indices=np.array([0, 1])), "file cannot be read as an array"),
        (changed(MATRIX, _shape=(3, 10**9)), "more than 100,000,000"),
        (reread([1.0, 2.0]), "file is a list, not an array"),
        (reread({1, 2}), r"file is __builtin__\.set, not an array"),
        (reread(np.float64(1)), "file cannot be read as an array"),
        (None, "file is a NoneType, not an array"),
    ],
)
def test_what_is_damaged_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        as_array(value, "file")


def selection(**parts):
    """A chumpy object that chooses three elements of an array."""
    found = Inert("chumpy.reordering.Select", ())
    whole, chosen = reread(np.arange(5.0)), reread(np.array([4, 0, 2]))
    found.state = {"a": whole, "idxs": chosen, "preferred_shape": (3, 1), **parts}
    return found


def test_a_selection_of_chumpys_is_made():
    assert as_array(selection(), "file").tolist() == [[4], [0], [2]]
    shape = reread(np.array([1, 3]))
    assert as_array(selection(preferred_shape=shape), "file").tolist() == [[4, 0, 2]]


def test_what_chumpy_computes_is_refused_by_name():
    product = Inert("chumpy.ch.MatVecMult", ())
    product.state = {"mtx": 1}
    with pytest.raises(UserError, match=r"file is computed by chumpy\.ch\.MatVecMult"):
        as_array(product, "file")


@pytest.mark.parametrize("part", ["x", "a", "idxs", "preferred_shape"])
def test_objects_within_themselves_end(part):
    found = selection()
    found.state[part] = found
    with pytest.raises(UserError):
        as_array(found, "file")
    matrix = reread(MATRIX)
    matrix.state["data"] = matrix
    with pytest.raises(UserError, match="cannot be read as an array"):
        as_array(matrix, "file")
