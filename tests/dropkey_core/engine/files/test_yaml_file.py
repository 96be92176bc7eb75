from itertools import pairwise

import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.files.yaml_file import read_yaml

TRIPLES = "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, r"nests more than 20 levels deep"),
        ("a: " + "{b: " * 30, r"nests more than 20 levels deep"),
        ("a: &a [1]\n" + TRIPLES, r"repeats more than 5000 values by \*name"),
        ("a: &a [*a]", "is not valid YAML here: "),
        ("a: !!int x", r"is not valid YAML here: invalid literal for int"),
        ("a: !!float x", r"is not valid YAML here: could not convert string to float"),
        (f"a: {'9' * 5000}", r"is not valid YAML here: Exceeds the limit"),
        ("a: !!timestamp 2001-99-99", r"is not valid YAML here: month must be in 1..12"),
        ("a: !!timestamp x", r"is not valid YAML here: "),
        ("#" * 300_000, "has 300,000 bytes, 262,144 are allowed"),
        ("a: \ud800", "is not a text file"),
        ("'1'", "must be a mapping, it is the single value '1'"),
        ("[1]", "must be a mapping of the sections model"),
    ],
    ids=lambda value: value[:12],
)
def test_what_no_such_file_holds_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "odd.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=rf"odd.yaml {message}") as caught:
        read_yaml(path, ["model"])
    assert "\n" not in str(caught.value)


def test_many_references_to_little_are_read(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text("a: &a [1, 2]\nrows: [" + "*a, " * 400 + "]")
    assert read_yaml(path, ["a", "rows"]).rows[399] == [1, 2]
