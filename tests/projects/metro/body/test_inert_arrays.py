import pickle

import numpy as np
import pytest
from scipy import sparse

from projects.metro.body.inert_arrays import NotAnArray, as_array, as_objects
from projects.metro.body.inert_pickle import read_pickle


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
    found = as_array(reread(array, protocol))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.flags.writeable


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [sparse.csc_matrix, sparse.csr_matrix, sparse.csc_array])
def test_sparse_matrices_become_dense(kind, protocol):
    array = np.array([[0, 2.0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 5]])
    np.testing.assert_array_equal(as_array(reread(kind(array), protocol)), array)


def test_repeated_entries_of_a_sparse_matrix_add_up():
    matrix = sparse.csc_matrix((np.array([1.0, 2.0]), np.array([1, 1]), np.array([0, 2])), (3, 1))
    assert as_array(reread(matrix)).tolist() == [[0], [3], [0]]


def test_modules_of_old_and_new_numpy_and_scipy_are_known():
    array = pickle.dumps(np.arange(3), protocol=2)
    matrix = pickle.dumps(sparse.csc_matrix(np.eye(2)), protocol=2)
    assert b"numpy._core.multiarray" in array or b"numpy.core.multiarray" in array
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        old = array.replace(b"numpy._core.multiarray", module)
        assert as_array(read_pickle(old, "file")).tolist() == [0, 1, 2]
    for module in (b"scipy.sparse.csc", b"scipy.sparse._csc"):
        old = matrix.replace(b"scipy.sparse._csc", module)
        assert as_array(read_pickle(old, "file")).tolist() == [[1, 0], [0, 1]]


def test_arrays_of_python_2_are_read():
    """Python 2 has one type for text and bytes; protocols 0 and 2 write it differently."""
    array = np.array([1.5, -2.0, 1e300])
    raw = array.tobytes()
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    quoted = b"S" + repr(raw)[1:].encode() + b"\n"
    binary = b"T" + len(raw).to_bytes(4, "little") + raw
    for data in (quoted, binary):
        found = as_array(read_pickle(head + b"(I1\n(I3\nt" + dtype + b"I00\n" + data + b"tb.", "x"))
        np.testing.assert_array_equal(found, array)


def test_objects_of_an_array_are_read_one_by_one():
    array = np.empty(2, object)
    array[:] = [np.arange(3), sparse.csc_matrix(np.eye(2))]
    first, second = as_objects(reread(array))
    assert as_array(first).tolist() == [0, 1, 2]
    assert as_array(second).tolist() == [[1, 0], [0, 1]]


def changed(value, **state):
    """A note of an array or matrix whose state was tampered with."""
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


def typed(code):
    """A dtype of another kind."""
    found = reread(np.dtype("f8"))
    found.arguments = (code, *found.arguments[1:])
    return found


MATRIX = sparse.csc_matrix(np.eye(3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(np.ones(3), shape=(4,)), r"24 bytes for shape \(4,\) of float64"),
        (changed(np.ones(3), shape=(10**12,)), "more than 100,000,000 numbers"),
        (changed(np.ones(3), shape=(-3,)), "damaged array"),
        (changed(np.ones(3), data=[1, 2, 3]), "damaged array"),
        (changed(np.ones(3), dtype=flagged_dtype()), "array of objects"),
        (changed(np.ones(3), dtype="f8"), "no plain numbers"),
        (reread(np.array([1, "a"], object)), "array of objects, not of numbers"),
        (reread(np.array(["a"])), "no plain numbers"),
        (reread(np.zeros(2, [("a", int)])), "no plain numbers"),
        (changed(np.ones(3), shape=(0, 10**9)), "more than 100,000,000 numbers"),
        (changed(np.ones(3), shape=(9**9999, 2)), "more than 100,000,000 numbers"),
        (changed(np.ones(1), shape=(1,) * 99), "damaged array"),
        (changed(np.ones(3), data="\u1234" * 24), "damaged array"),
        (changed(np.ones(3), dtype=typed("f1")), "no plain numbers"),
        (changed(MATRIX, indices=np.array([0, 1, 3])), "damaged sparse"),
        (changed(MATRIX, indptr=np.array(3)), "damaged sparse"),
        (changed(MATRIX, indptr=np.array([0, np.inf, 2, 3])), "damaged sparse"),
        (changed(MATRIX, indices=np.array([0, -1, 2])), "damaged sparse"),
        (changed(MATRIX, indptr=np.array([0, 5, 2, 3])), "damaged sparse"),
        (changed(MATRIX, indptr=np.array([0, 1, 2, 3, 3])), "damaged sparse"),
        (changed(MATRIX, indptr=np.array([0, 2**63, 1, 3], np.uint64)), "damaged sparse"),
        (changed(MATRIX, _shape=(3, 10**9)), "more than 100,000,000"),
        (reread([1.0, 2.0]), "is a list, not an array"),
        (reread({1, 2}), "is builtins.set|__builtin__.set, not an array"),
        (None, "is a NoneType, not an array"),
    ],
)
def test_what_is_damaged_is_refused(value, message):
    with pytest.raises(NotAnArray, match=message):
        as_array(value)


def selection(**parts):
    """What chumpy keeps of three chosen elements."""
    whole, chosen = reread(np.ones(5)), reread(np.arange(3))
    return {"a": whole, "idxs": chosen, "preferred_shape": (3,), **parts}


def test_objects_within_themselves_end():
    found = reread(np.ones(3))
    found.maker = type(found.maker)("chumpy.reordering", "Select")
    for state in ({"x": found}, selection(a=found), selection(idxs=found)):
        found.state = state
        with pytest.raises(NotAnArray, match="objects within objects"):
            as_array(found)
    found.state = selection(preferred_shape=found)
    with pytest.raises(NotAnArray, match="objects within objects"):
        as_array(found)
    found = reread(MATRIX)
    found.state["data"] = found
    with pytest.raises(NotAnArray, match="objects within objects"):
        as_array(found)
