import pytest

from dropkey_core.engine import UserError
from projects.paper.tables import read_table
from projects.paper.tables.table import Better


def test_what_is_written_is_read(content, write_table):
    content["metrics"][0]["better"] = "lower"
    table = read_table(write_table(content))
    assert table.name == "toys"
    assert [row.id for row in table.rows] == ["none", "tuned", "again", "repeated", "absent"]
    assert table.rows[0].paper == {"bbox/AP": (-0.5,)}
    assert table.metrics[0].better is Better.lower
    assert table.metrics[0].digits == 3
    assert table.setups["toy"]["demo"].overrides == ["train.max_iter=2"]


def test_row_with_a_stage_is_trained_twice(staged, write_table):
    table = read_table(write_table(staged))
    first, second = (table.find_row(name)[1] for name in ("twice.first", "twice"))
    assert (first.reported, first.stage, first.paper, first.weights_of) == (False, "", {}, "")
    assert (second.reported, second.stage, second.weights_of) == (True, "shorter", "twice.first")
    assert first.overrides == second.overrides == ["model.drop_ratio=0.25"]
    assert second.paper == {"bbox/AP": (-0.125, 0.5)}


def test_null_is_no_number(content, write_table):
    content["rows"][0]["paper"] = {"bbox/AP": None}
    assert read_table(write_table(content)).rows[0].paper == {}


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


WRONG = {
    "unknown key": (change(["ttle"], "x"), r"unknown key 'ttle'; nearest is 'title'"),
    "unknown key of a row": (
        change(["rows", 0, "overides"], []),
        r"unknown key 'rows.none.overides'; nearest is 'rows.none.overrides'",
    ),
    "unknown key of a setup": (
        change(["setups", "toy", "demo", "confg"], "x"),
        r"unknown key 'setups.toy.demo.confg'",
    ),
    "wrong type": (change(["rows", 0, "paper", "bbox/AP"], "high"), r"rows.none.paper.*'high'"),
    "± that is none": (change(["rows", 0, "paper", "bbox/AP"], [1.0, "x"]), r"its ±\], got \[1.0"),
    "three numbers": (change(["rows", 0, "paper", "bbox/AP"], [1, 2, 3]), r"got \[1, 2, 3\]"),
    "stages that are none": (change(["stages"], {"short": ["a=1"]}), r"stages"),
    "unknown stage": (
        change(["rows", 0, "stage"], "shoter"),
        "rows.none.stage: 'shoter' is not in this table; nearest is 'shorter'",
    ),
    "stage without scale": (
        change(["stages", "shorter", "demo"], None),
        "stages.shorter: 'demo' is not in this table",
    ),
    "stage of a measurement": (
        change(["rows", 2, "stage"], "shorter"),
        "no use in a row that is not trained",
    ),
    "stage without use": (
        change(["rows", 3, "stage"], "shorter"),
        "no use in a row that is not trained",
    ),
    "missing title": (change(["title"], None), r"title: .*missing mandatory value: title"),
    "missing label": (change(["rows", 0, "label"], None), r"rows.none.label: .*missing"),
    "row that is no mapping": (change(["rows", 0], 5), r"rows.0 must be a mapping, got 5"),
    "rows that are none": (change(["rows"], "x"), "rows: "),
    "same id": (change(["rows", 1, "id"], "none"), "rows.none is there twice"),
    "id with a folder": (change(["rows", 0, "id"], "../x"), r"an id has letters.*got '../x'"),
    "two ways": (change(["rows", 0, "left_out"], "why"), "exactly one of .* it has setup and left"),
    "no way": (change(["rows", 0, "setup"], None), "rows.none needs exactly one of .* has none"),
    "measure without weights": (change(["rows", 2, "weights_of"], None), "weights_of is missing"),
    "weights without use": (
        change(["rows", 3, "weights_of"], "none"),
        "no use in a row that is not trained",
    ),
    "overrides without use": (
        change(["rows", 2, "overrides"], ["a=1"]),
        "no use in a row that is not trained",
    ),
    "setup that does nothing": (
        change(["setups", "toy", "demo", "config"], None),
        "setups.toy needs exactly one of config and measure",
    ),
    "unknown setup": (
        change(["rows", 0, "setup"], "tyo"),
        "rows.none.setup: 'tyo' is not in this table; nearest is 'toy'",
    ),
    "unknown metric": (change(["rows", 0, "paper"], {"box/AP": 1.0}), "nearest is 'bbox/AP'"),
    "unknown row": (change(["rows", 1, "weights_of"], "nnoe"), "no row 'nnoe'; nearest is 'none'"),
    "unknown table": (change(["rows", 1, "weights_of"], "toyz/none"), "no table .*toyz.yaml"),
    "left-out row": (change(["rows", 1, "weights_of"], "absent"), "which is left out"),
    "circle": (change(["rows", 0, "weights_of"], "tuned"), "refers to itself by way of"),
    "setup without scale": (
        change(["setups", "toy", "demo"], None),
        "setups.toy: 'demo' is not in this table",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named(case, staged, write_table):
    spoil, message = WRONG[case]
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
