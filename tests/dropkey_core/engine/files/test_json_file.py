import os
from typing import Annotated

import msgspec
import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.files.json_file import read_json


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.json"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_with_and_without_a_mark_of_byte_order(path, mark):
    path.write_bytes(mark + '{"a": [1, NaN, "\u00e9"]}'.encode())
    document = read_json(path)
    assert document["a"][0] == 1
    assert document["a"][1] != document["a"][1]
    assert document["a"][2] == "\u00e9"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read as JSON: Expecting value: line 1 column 1"),
        (b'{"a": 1\n,}', r"cannot be read as JSON: .*: line 2 column \d"),
        (b'"\x00', "cannot be read as JSON: (Invalid control character|Unterminated string)"),
        (b"\xff\xfe[\x00", "is not a text file"),
        (b"[" * 200_000, "cannot be read as JSON: maximum recursion depth"),
        (b'{"a":' * 200_000, "cannot be read as JSON: maximum recursion depth"),
        (b"-" + b"1" * 5000, ": Integer value out of range"),
        (b"-" * 100_000, "cannot be read as JSON"),
    ],
)
def test_nonsense_is_one_line(path, content, message):
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} ?{message}") as error:
        read_json(path)
    assert "\n" not in str(error.value)


class Point(msgspec.Struct):
    x: int
    y: float = 0.5


def test_a_document_is_checked_against_a_type(path):
    path.write_text('[{"x": 1, "left out": {}}]')
    assert read_json(path, list[Point]) == [Point(1)]
    path.write_text('[{"x": 1, "y": Infinity}]')
    assert read_json(path, list[Point]) == [Point(1, float("inf"))]


@pytest.mark.parametrize("y", ["2", "NaN"])  # which msgspec reads, and which Python reads
def test_what_is_of_another_type_is_told_with_its_place(path, y):
    path.write_text(f'[{{"x": "1", "y": {y}}}]')
    with pytest.raises(UserError, match=rf"^{path}: Expected `int`, got `str` - at `\$\[0\]\.x`"):
        read_json(path, list[Point])


def test_halves_of_characters_are_refused_where_they_are_looked_at(path):
    path.write_text(r'"\ud800"')
    assert read_json(path) == "\ud800"
    with pytest.raises(UserError, match=f"^{path}: "):
        read_json(path, Annotated[str, msgspec.Meta(pattern="^a$")])


def test_too_large_a_file_is_refused_by_its_size(path):
    path.write_bytes(b"")
    os.truncate(path, 2**34)  # a hole, which takes no disk
    with pytest.raises(UserError, match=r"has 17,179,869,184 bytes, 8,589,934,592 are allowed"):
        read_json(path)
