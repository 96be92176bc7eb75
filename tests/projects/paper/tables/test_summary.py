import csv
import math

import pytest

from dropkey_core.engine import UserError
from projects.paper.tables import Plan, read_table
from projects.paper.tables.job import plan_jobs
from projects.paper.tables.record import Record
from projects.paper.tables.schema import Metric, Quoted
from projects.paper.tables.summary import Cell, summarise, write_csv

AP = Metric("bbox/AP", "AP", 2)


@pytest.fixture
def table(content, write_table):
    return read_table(write_table(content))


def finish(table, values, plan=None):
    """Pretends that jobs are done, with these numbers in their order."""
    for job, value in zip(plan_jobs(table, plan or Plan()), values, strict=False):
        Record(job.settings(), None, {"bbox/AP": value}).write(job.folder)


def test_mean_and_spread_by_hand():
    """1, 2, 6: mean 3, squares of the differences 4 + 1 + 9, over n - 1 = 2 is 7."""
    cell = Cell(AP, Quoted(2.5), (1.0, 2.0, 6.0))
    assert cell.mean == 3.0
    assert cell.spread == pytest.approx(math.sqrt(7.0))
    assert cell.ours_text == "3.00 ± 2.65"
    assert cell.paper_text == "2.50"
    assert Cell(AP, Quoted(2.5, 0.125), ()).paper_text == "2.50 ± 0.12"


@pytest.mark.parametrize(("values", "text"), [((), "-"), ((1.0,), "1.00 ± -")])
def test_never_a_mean_without_its_spread(values, text):
    assert Cell(AP, None, values).ours_text == text


def test_rows_tell_how_many_seeds_they_stand_on(table):
    finish(table, [-0.5, -0.25, -1.0])
    none, tuned, again, repeated, absent = summarise(table, Plan())
    assert none.cells[0].values == (-0.5, -0.25)
    assert none.cells[0].paper == Quoted(-0.5)
    assert (none.state, tuned.state, again.state) == ("2 seeds", "1 of 2 seeds", "not run")
    assert repeated.cells[0].values == none.cells[0].values
    assert repeated.cells[0].paper is None
    assert (absent.state, absent.cells[0].paper) == ("left out", Quoted(-0.25))


def test_factor_makes_per_cent_of_parts(content, write_table):
    content["metrics"][0]["factor"] = 100.0
    table = read_table(write_table(content))
    finish(table, [0.25])
    cell = summarise(table, Plan())[0].cells[0]
    assert (cell.values, cell.paper) == ((25.0,), Quoted(-0.5))


def test_single_seed(table):
    plan = Plan("demo")
    finish(table, [-0.5], plan)
    assert summarise(table, plan)[0].state == "1 seed"


def test_failure_of_a_row(table):
    row = summarise(table, Plan(), {"toys/none, seed 1": "no data"})[0]
    assert (row.state, row.failure) == ("failed", "no data")


def test_metric_that_a_run_does_not_have(table):
    job = plan_jobs(table, Plan())[0]
    Record(job.settings(), None, {"bbox/AR": 1.0}).write(job.folder)
    with pytest.raises(UserError, match="none, seed 0 has no metric 'bbox/AP'; it has bbox/AR"):
        summarise(table, Plan())


def test_every_number_in_the_csv(table, tmp_path):
    finish(table, [-0.5, -0.1, -1.0])
    with write_csv(tmp_path / "raw.csv", table, Plan()).open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("none", "0", "bbox/AP", "-0.5"), ("none", "1", "bbox/AP", "-0.1"),
        ("tuned", "0", "bbox/AP", "-1.0"),
        ("repeated", "0", "bbox/AP", "-0.5"), ("repeated", "1", "bbox/AP", "-0.1"),
    ]  # fmt: skip
