import contextlib
import gc
import os

import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.files import json_file
from dropkey_core.engine.files.json_file import read_json


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.json"


def test_the_search_for_cycles_is_as_it_was(path):
    for content in (b"[]", b"["):
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            read_json(path)
        assert gc.isenabled()
    gc.disable()
    try:
        with contextlib.suppress(UserError):
            read_json(path)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_with_and_without_a_mark_of_byte_order(path, mark):
    path.write_bytes(mark + '{"a": [1, NaN, "\u00e9"], "b": {"drop": 1}}'.encode())
    document = read_json(path, without="drop")
    assert document["b"] == {}
    assert document["a"][0] == 1
    assert document["a"][1] != document["a"][1]
    assert document["a"][2] == "\u00e9"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"not valid JSON: Expecting value \(line 1, column 1\)"),
        (b'{"a": 1\n,}', r"not valid JSON: .* \(line 2, column \d\)"),
        (b'"\x00', "not valid JSON: (Invalid control character|Unterminated string)"),
        (b"\xff\xfe[\x00", "not a text file in UTF-8"),
        (b"[" * 200_000, "not valid JSON here: lists within lists, too deep"),
        (b'{"a":' * 200_000, "not valid JSON here: lists within lists, too deep"),
        (b"1" * 5000, "not valid JSON here: a number is too long"),
        (b"-" * 100_000, "not valid JSON"),
        (b'[{"b": 1, "a": 1, "a": []}]', "not valid JSON here: an object has 'a' twice"),
    ],
)
def test_nonsense_is_one_line(path, content, message):
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} is {message}") as error:
        read_json(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[" + b"[]," * 400 + b"[]]", "402 lists and objects, 320 are allowed"),
        (b"[" + b"{}," * 400 + b"{}]", "402 lists and objects, 320 are allowed"),
        (b"[" + b"0," * 3000 + b"0]", "3,000 commas and quotes, 2,560 are allowed"),
        (b"[" + b'"ab",' * 1000 + b"0]", "3,000 commas and quotes, 2,560 are allowed"),
    ],
)
def test_what_would_fill_the_memory_is_not_parsed(path, content, what, monkeypatch):
    monkeypatch.setattr(json_file.json, "loads", pytest.fail)
    monkeypatch.setenv("DROPKEY_LARGEST_JSON", "20480")
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} has {what}.* set DROPKEY_LARGEST_JSON to more"):
        read_json(path)


def test_too_large_a_file_is_refused_by_its_size(path, monkeypatch):
    path.write_bytes(b"")
    os.truncate(path, 2 * 2**30)  # a hole, which takes no disk
    with pytest.raises(UserError, match=r"2,147,483,648 bytes, 1,073,741,824 are allowed: set DRO"):
        read_json(path)
    path.write_text(f"[1, 2{' ' * 94}]")
    monkeypatch.setenv("DROPKEY_LARGEST_JSON", "100")
    assert read_json(path) == [1, 2]
    monkeypatch.setenv("DROPKEY_LARGEST_JSON", "99")
    with pytest.raises(UserError, match="100 bytes, 99 are allowed"):
        read_json(path)
    monkeypatch.setenv("DROPKEY_LARGEST_JSON", "1e9")
    with pytest.raises(UserError, match="DROPKEY_LARGEST_JSON must be a number of bytes, got '1e9"):
        read_json(path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "link.json"):
        with pytest.raises(UserError, match=rf"{name} cannot be read: it is a device or a pipe"):
            read_json(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read: it is a folder"):
        read_json(tmp_path)
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read: embedded null"):
        read_json(tmp_path / "a\0b")
