from itertools import pairwise

import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.files.yaml_file import read_yaml

TRIPLES = "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 900, r"cannot be read as YAML: "),  # by the stack or by the end of the text
        ("a: " + "{b: " * 30, r"cannot be read as YAML: while parsing a flow node"),
        ("a: &a [1]\n" + TRIPLES, r"has 24,608 values, 10,000 are allowed"),
        ("a: &a [*a]", r"cannot be read as YAML: maximum recursion depth"),
        ("a: &a {b: *a}", r"cannot be read as YAML: maximum recursion depth"),
        ("a: !!int x", r"cannot be read as YAML: invalid literal for int"),
        ("a: !!python/object/apply:os.system [ls]", r"cannot be read as YAML: could not determine"),
        (f"a: {'9' * 5000}", r"cannot be read as YAML: Exceeds the limit"),
        ("a: !!timestamp 2001-99-99", r"cannot be read as YAML: month must be in 1..12"),
        ("a: !!timestamp x", r"cannot be read as YAML: "),
        ("#" * 300_000, "has 300,000 bytes, 262,144 are allowed"),
        ("a: \ud800", "is not a text file"),
        ("'a: 1'", "must be a mapping, it is the single value 'a: 1'"),
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
