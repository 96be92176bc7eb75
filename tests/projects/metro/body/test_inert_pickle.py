import codecs
import collections
import functools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from dropkey_core.engine import UserError
from projects.metro.body.inert_pickle import Note, read_pickle


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


def refused(data, name):
    with pytest.raises(UserError) as caught:
        read_pickle(data, "body.pkl")
    assert f"body.pkl was not read: it names {name}, which is none" in str(caught.value)
    assert "\n" not in caught.value.one_line()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda mark: (os.system, f"touch {mark}"), f"{os.system.__module__}.system"),
        (lambda mark: (eval, f"open({str(mark)!r}, 'w')"), "eval"),
        (lambda mark: (exec, f"open({str(mark)!r}, 'w')"), "exec"),
        (lambda mark: (getattr, os, "system"), "getattr"),
        (lambda mark: (subprocess.Popen, ["touch", str(mark)]), "Popen"),
        (lambda mark: (functools.partial, os.system, f"touch {mark}"), "functools.partial"),
        (lambda mark: (np.load, str(mark)), "numpy.load"),
        (lambda mark: (np.fromfile, str(mark)), "numpy"),
        (lambda mark: (codecs.decode, b"x", "zlib"), "_codecs.decode"),
        (lambda mark: (__import__, "os"), "__import__"),
        (lambda mark: (np.savetxt, str(mark), [1]), "numpy.savetxt"),
        (lambda mark: (collections.namedtuple, "a", "b"), "collections.namedtuple"),
    ],
)
def test_calls_are_refused_by_name_and_never_made(mark, call, name, protocol):
    call = call(mark)
    if call[0] is getattr:
        call = (getattr, "text", "upper")
    hostile = Calls(*call)
    for document in (hostile, {"v_template": [1, (hostile,)]}, np.array([hostile, 1], object)):
        data = pickle.dumps(document, protocol=protocol)
        with pytest.raises(UserError, match=rf"body.pkl was not read: it names [\w.]*{name}"):
            read_pickle(data, "body.pkl")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cos\nsystem\n(S'touch mark'\ntR.", "os.system"),
        (b"(S'touch mark'\nios\nsystem\n.", "os.system"),  # INST
        (b"(cos\nsystem\nS'touch mark'\no.", "os.system"),  # OBJ
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"cnumpy.core.numeric\nload\n.", "numpy.core.numeric.load"),
        (b"cnumpy.core.numeric\nfromfile\n.", "numpy.core.numeric.fromfile"),
        (b"cnumpy\nndarray.__class__\n.", "numpy.ndarray.__class__"),
        (b"cchumpyx\nCh\n.", "chumpyx.Ch"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "os.system"),
        (b"cos\nsystem\nS'x'\nb.", "os.system"),  # BUILD
        (b"\x80\x02\x82\x01.", "the registered object 1"),
        (b"Psomewhere\n.", "the outside object 'somewhere'"),
        (b"cos\n" + b"s" * 1000 + b"\n.", "os." + "s" * 97),
    ],
)
def test_handwritten_code_is_refused_by_name(data, name):
    refused(data, name)


def test_what_may_be_named_is_not_called_either(monkeypatch):
    """Names that arrays need: neither imported nor called, whatever they are given."""

    class Trap:
        def __getattr__(self, name):
            raise AssertionError(f"looked at chumpy.{name}")

    monkeypatch.setitem(sys.modules, "chumpy", Trap())
    data = b"cchumpy\nos.system\n(S'touch mark'\ntR}S'x'\nI1\nsb."
    found = read_pickle(data, "body.pkl")
    assert isinstance(found, Note)
    assert str(found.maker) == "chumpy.os.system"
    assert found.arguments == ("touch mark",)
    assert found.state == {"x": 1}
    found = read_pickle(b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.", "body.pkl")
    assert (str(found.maker), found.arguments) == ("numpy.ndarray", (5,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"\x93NUMPY",
        pickle.dumps({"a": 1})[:-2],
        pickle.dumps({"a": np.ones(99)}, protocol=2)[:200],
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f",  # 2**63 bytes are to follow
        b"cnumpy\nndarray\n}S'module'\nS'os'\nsb.",  # a state for a name
        b"I1\n(tR.",  # a call of a number
        b"cos\nsys",
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"(lp0\ncnumpy\nndarray\na0\x00.",
    ],
)
def test_what_is_no_pickle_is_told_in_one_line(data):
    with pytest.raises(UserError, match=r"body.pkl is not a sound pickle \(.+\)") as caught:
        read_pickle(data, "body.pkl")
    assert "\n" not in str(caught.value)


def test_large_numbers_of_kept_objects_cost_nothing():
    """An object kept as number 2**31, for which the unpickler in C makes a table of that size."""
    assert read_pickle(b"\x80\x02Nr\xff\xff\xff\x7f.", "body.pkl") is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_as_it_is(protocol):
    document = {"a": [1, 2.5, "\u00e4", None, True, (1, -(2**70))], "b": {"c": b"\x00\xff"}, 3: "d"}
    assert read_pickle(pickle.dumps(document, protocol=protocol), "body.pkl") == document


PAIRS = b"N" + b"2\x86" * 40  # pairs of pairs of pairs ...: a terabyte to write out or hash


@pytest.mark.parametrize(
    "data",
    [
        b"}" + PAIRS + b"Ns.",
        b"}(" + PAIRS + b"Nu.",
        b"(" + PAIRS + b"Nd.",
        b"\x8f(" + PAIRS + b"\x90.",
        b"(" + PAIRS + b"\x91.",
        b"cchumpy\nCh\n)\x81" + PAIRS + b"Ns.",
        b"c_codecs\nencode\n(S'a'\n" + PAIRS + b"tR.",
        b"\x96\xff\xff\xff\xff\x0f\0\0\0ab.",  # 64 GB of bytes are to follow
        b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
    ],
    ids=["key", "keys", "dict", "set", "frozenset", "item", "encoding", "bytes", "steps"],
)
def test_what_takes_years_or_terabytes_is_refused_at_once(data):
    with pytest.raises(UserError, match=r"body.pkl is not a sound pickle \(.+\)"):
        read_pickle(data, "body.pkl")


def test_an_outside_object_without_end_is_not_written_out():
    refused(PAIRS + b"Q.", "the outside object a tuple")
