import logging
import os
from typing import Annotated, Any

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
        (b"-" + b"1" * 5000, "cannot be read as JSON: Exceeds the limit"),
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
    path.write_text(f'[{{"x": "one", "y": {y}}}]')
    with pytest.raises(UserError, match=rf"^{path}: Expected `int`, got `str` - at `\$\[0\]\.x`"):
        read_json(path, list[Point])


class Drawing(msgspec.Struct):
    """What a document may hold in more than one way of writing."""

    name: str
    size: tuple[int, int]
    points: list[Point] = []
    flag: bool | Annotated[float, msgspec.Meta(ge=0, le=1)] = False
    places: list[int | float] = []
    note: Any = None
    scale: int | None = None


def test_what_can_be_meant_one_way_is_read_so_and_counted_once(path, caplog):
    path.write_text(
        '{"name": 12, "size": ["18\\n", 3.0], "points": [{"x": " 4", "y": "1e-1"}, {"x": 5.0}], '
        '"flag": null, "places": ["2.0", 7.0, "-1"], "note": "3", "scale": null, "more": ["1"]}'
    )
    with caplog.at_level(logging.WARNING):
        found = read_json(path, Drawing)
    assert found == Drawing("12", (18, 3), [Point(4, 0.1), Point(5)], False, [2.0, 7.0, -1], "3")
    assert [type(place) for place in found.places] == [float, float, int]
    (warning,) = caplog.records
    assert warning.getMessage() == (
        f"{path}: read as what it can only mean: 1 times name (12), 2 times size ('18\\n'), "
        "2 times x (' 4'), 1 times y ('1e-1'), 1 times flag (None), 2 times places ('2.0')"
    )


@pytest.mark.parametrize(
    "value", ['"1.5"', "1.5", "true", "null", '"1_0"', '"nan"', '"0x1"', '""', '"1,0"', "[1]", "{}"]
)
def test_what_can_be_meant_in_no_way_or_two_is_refused(path, value):
    path.write_text(f'[{{"x": {value}}}]')
    with pytest.raises(UserError, match=rf"^{path}: Expected `int`.* - at `\$\[0\]\.x`"):
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
