import pytest

from dropkey_core.engine import UserError
from projects.paper.tables import read_table


def test_what_is_written_is_read(content, write_table):
    content["metrics"][0]["better"] = "lower"
    table = read_table(write_table(content))
    assert table.name == "toys"
    assert [row.id for row in table.rows] == ["none", "tuned", "again", "repeated", "absent"]
    assert table.rows[0].paper == {"bbox/AP": -0.5}
    assert table.metrics[0].better == "lower"
    assert table.metrics[0].digits == 3
    assert table.setups["toy"]["demo"].overrides == ["train.max_iter=2"]


def test_row_with_a_stage_is_trained_twice(staged, write_table):
    table = read_table(write_table(staged))
    first, second = (table.find_row(name)[1] for name in ("twice.first", "twice"))
    assert (first.reported, first.stage, first.paper, first.weights_of) == (False, "", {}, "")
    assert (second.reported, second.stage, second.weights_of) == (True, "shorter", "twice.first")
    assert first.overrides == second.overrides == ["model.drop_ratio=0.25"]
    assert second.paper == {"bbox/AP": [-0.125, 0.5]}


def change(path, value):
    """Sets, or with value None removes, what a path of keys leads to."""

    def apply(content):
        *parts, last = path
        node = content
        for part in parts:
            node = node[part]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return apply


WRONG = [
    (change(["ttle"], "x"), r"unknown field `ttle`; nearest is 'title'"),
    (change(["rows", 0, "overides"], []), r"`overides` - .* nearest is 'overrides' \(none\)"),
    (change(["setups", "toy", "demo", "confg"], "x"), "unknown field `confg`.*'config'"),
    (change(["rows", 0, "paper", "bbox/AP"], "high"), r"got `str` - at `\$.rows.*paper.*\(none\)"),
    (change(["rows", 0, "paper", "bbox/AP"], [1.0, "x"]), "Expected `float`, got `str`"),
    (change(["rows", 0, "paper", "bbox/AP"], [1, 2, 3]), "length <= 2"),
    (change(["stages"], {"short": ["a=1"]}), "Expected `object`, got `array`.*stages"),
    (change(["title"], None), "missing required field `title`"),
    (change(["rows", 0, "label"], None), r"missing required field `label`.*\(none\)"),
    (change(["rows", 0, "id"], None), r"missing required field `id`.*\(without id\)"),
    (change(["rows", 0], 5), r"Expected `object`, got `int` - at `\$.rows\[0\]`"),
    (change(["rows"], "x"), "Expected `array`, got `str`"),
    (change(["rows", 0, "id"], "../x"), "matching regex"),
    (change(["rows", 1, "weights_of"], "../x"), "matching regex"),
    (change(["rows", 0, "left_out"], "why"), r"one of .*, it has 2 .*\(none\)"),
    (change(["rows", 0, "setup"], None), r"one of .*, it has 0 .*\(none\)"),
    (change(["setups", "toy", "demo", "config"], None), "exactly one of config and measure"),
    (change(["rows", 0, "stage"], "shoter"), "rows.none: stage: 'shoter'.* nearest is 'shorter'"),
    (change(["stages", "shorter", "demo"], None), "stage shorter: 'demo' is not in this table"),
    (change(["rows", 2, "stage"], "shorter"), "stage has no use in a row that is not trained"),
    (change(["rows", 3, "stage"], "shorter"), "stage has no use in a row that is not trained"),
    (change(["rows", 1, "id"], "none"), "rows.none: this id is there twice"),
    (change(["rows", 2, "weights_of"], None), "weights_of is missing: count measures"),
    (change(["rows", 3, "weights_of"], "none"), "weights_of has no use"),
    (change(["rows", 2, "overrides"], ["a=1"]), "overrides has no use"),
    (change(["rows", 0, "setup"], "tyo"), "rows.none: setup: 'tyo' is not .* nearest is 'toy'"),
    (change(["rows", 0, "paper"], {"box/AP": 1.0}), "nearest is 'bbox/AP'"),
    (change(["rows", 0, "seeds"], {"ful": [1]}), "seeds: 'ful' is not .* nearest is 'full'"),
    (change(["rows", 1, "weights_of"], "nnoe"), "no row 'nnoe'; nearest is 'none'"),
    (change(["rows", 1, "weights_of"], "toyz/none"), "no table .*toyz.yaml"),
    (change(["rows", 1, "weights_of"], "absent"), "rows.tuned: .*'absent' to a row that is left"),
    (change(["rows", 0, "weights_of"], "tuned"), "refers to itself by way of"),
    (change(["setups", "toy", "demo"], None), "setup toy: 'demo' is not in this table"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG, ids=[message for _, message in WRONG])
def test_mistakes_are_named(spoil, message, staged, write_table):
    spoil(staged)
    path = write_table(staged)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in caught.value.one_line()


def test_not_a_mapping(write_table):
    with pytest.raises(UserError, match="must be a mapping of the sections title, source"):
        read_table(write_table("- a\n- b\n"))


def test_missing_file_names_the_nearest():
    with pytest.raises(
        UserError, match=r"'configs/paper/tabel1.yaml' below .*is 'configs/paper/table1.yaml'"
    ):
        read_table("configs/paper/tabel1.yaml")


def test_row_of_another_table(content, write_table):
    write_table(content, "others")
    content["rows"][1]["weights_of"] = "others/none"
    table = read_table(write_table(content))
    other, row = table.find_row("others/none")
    assert (other.name, row.id) == ("others", "none")


def test_mistake_in_another_table_is_told_with_its_path(content, write_table):
    content["rows"][1]["weights_of"] = "others/none"
    path = write_table(content)
    content["rows"][1]["weights_of"] = "missing"
    other = write_table(content, "others")
    with pytest.raises(UserError, match=f"{other}: others has no row 'missing'"):
        read_table(path)
