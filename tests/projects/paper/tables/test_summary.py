import csv

import pytest

from dropkey_core.engine import UserError
from projects.paper.tables import Plan, plan_jobs, read_table
from projects.paper.tables.summary import mean_and_spread, summarise, write_csv
from projects.paper.tables.table import Metric


@pytest.fixture
def table(content, write_table):
    return read_table(write_table(content))


def finish(table, values, plan=None):
    """Pretends that jobs are done, with these numbers in their order."""
    for job, value in zip(plan_jobs(table, plan or Plan()), values, strict=False):
        job.write_record(None, {"bbox/AP": value})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 2.0, 6.0], "3.00 ± 2.65"),  # squares of differences 4 + 1 + 9, over n - 1 = 2: 7
        ([1.0], "1.00 ± -"),  # never a mean without its spread
        ([], "-"),
    ],
)
def test_mean_and_spread_by_hand(values, text):
    assert mean_and_spread(Metric("bbox/AP", "AP", 2), values) == text


def test_rows_tell_how_many_seeds_they_stand_on(table):
    finish(table, [-0.5, -0.25, -1.0])
    none, tuned, again, repeated, absent = summarise(table, Plan())
    assert (none.paper, none.ours) == (["-0.500"], ["-0.375 ± 0.177"])
    assert (none.state, tuned.state, again.state) == ("2 seeds", "1 of 2 seeds", "not run")
    assert (repeated.paper, repeated.ours) == (["-"], none.ours)
    assert (absent.state, absent.paper) == ("left out", ["-0.250"])


def test_factor_makes_per_cent_of_parts(content, write_table):
    content["metrics"][0]["factor"] = 100.0
    content["rows"][0]["paper"]["bbox/AP"] = [-0.5, 0.125]
    content["rows"][1]["paper"] = {"bbox/AP": None}
    table = read_table(write_table(content))
    finish(table, [0.25])
    line, other = summarise(table, Plan())[:2]
    assert (line.ours, line.paper) == (["25.000 ± -"], ["-0.500 ± 0.125"])
    assert other.paper == ["-"]


def test_single_seed(table):
    plan = Plan("demo", seeds=(3, 3))
    finish(table, [-0.5], plan)
    assert summarise(table, plan)[0].state == "1 seed"


def test_metric_that_a_run_does_not_have(table):
    plan_jobs(table, Plan())[0].write_record(None, {"bbox/AR": 1.0})
    with pytest.raises(UserError, match="none, seed 0 has no metric 'bbox/AP'; it has bbox/AR"):
        summarise(table, Plan())


def test_every_number_in_the_csv(table, tmp_path):
    finish(table, [-0.5, -0.1, -1.0])
    write_csv(tmp_path / "raw.csv", table, Plan())
    with (tmp_path / "raw.csv").open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("none", "0", "bbox/AP", "-0.5"), ("none", "1", "bbox/AP", "-0.1"),
        ("tuned", "0", "bbox/AP", "-1.0"),
        ("repeated", "0", "bbox/AP", "-0.5"), ("repeated", "1", "bbox/AP", "-0.1"),
    ]  # fmt: skip
