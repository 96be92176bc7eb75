"""The guard notices what a reader must not do."""

import contextlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.guard import Guard, Overstep

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="time and memory are bounded by Linux's own means"
)


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    return Guard(tmp_path_factory.mktemp("guarded"))


def work_for_ever(folder):
    while True:
        pass


def hide_it(folder):
    with contextlib.suppress(BaseException):
        os.system("true")


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (lambda folder: Path(__file__).read_bytes(), "opens .*test_guard.py"),
        (lambda folder: (folder / ".." / "other.txt").open(), "opens .*other.txt"),
        (lambda folder: (folder / "new.txt").write_text("x"), "opens .*new.txt"),
        (lambda folder: list(folder.parent.iterdir()), "lists "),
        (lambda folder: (folder / "input.txt").unlink(), "calls os.remove"),
        (lambda folder: subprocess.run(["true"]), "calls subprocess.Popen"),
        (lambda folder: os.system("true"), "calls os.system"),
        (lambda folder: exec("1 + 1"), "runs code: exec"),
        (lambda folder: __import__("no_module"), "runs code: import .*no_module"),
        (work_for_ever, "takes too long"),
        (lambda folder: bytearray(150 << 20), "takes 1[0-9]+ MB"),
        (hide_it, "calls os.system"),
    ],
)
def test_misdeed_is_noticed(guard, misdeed, words):
    (guard.folder / "input.txt").write_text("x")
    with pytest.raises(Overstep, match=words), guard.watch(seconds=1, megabytes=100):
        misdeed(guard.folder)
    assert (guard.folder / "input.txt").exists()
    assert not (guard.folder / "new.txt").exists()


def test_more_memory_than_there_may_be_is_not_given(guard):
    with pytest.raises(MemoryError), guard.watch(seconds=1, megabytes=100):
        bytearray(1 << 30)


def test_reading_the_input_is_allowed(guard):
    path = guard.folder / "input.txt"
    path.write_text("x")
    with guard.watch(seconds=1, megabytes=100):
        assert path.read_text() == "x"
        assert list(guard.folder.iterdir()) == [path]
        assert b"\xe9".decode("latin1") == "é"
        with pytest.raises(LookupError):
            b"a".decode("no_such_codec")


def test_importing_is_allowed_where_it_is_said(guard, tmp_path, monkeypatch):
    (tmp_path / "some_module_to_import.py").write_text("value = 3")
    monkeypatch.syspath_prepend(tmp_path)
    with guard.watch(seconds=5, megabytes=100, may_import=True):
        assert importlib.import_module("some_module_to_import").value == 3


def test_nothing_is_watched_afterwards(guard):
    with guard.watch(seconds=1, megabytes=100):
        pass
    assert subprocess.run(["true"]).returncode == 0
