import pytest

from projects.paper.tables import Plan, read_table
from projects.paper.tables.job import plan_jobs
from projects.paper.tables.markdown import markdown
from projects.paper.tables.record import Record
from projects.paper.tables.summary import summarise


@pytest.fixture
def table(content, write_table):
    return read_table(write_table(content))


def report(table, plan):
    return markdown(table, plan, summarise(table, plan))


def test_paper_and_ours_side_by_side(table):
    plan = Plan(rows=("none", "repeated", "absent"))
    for job, value in zip(plan_jobs(table, plan), [-0.5, -0.25], strict=True):
        Record(job.settings(), None, {"bbox/AP": value}).write(job.folder)
    text = report(table, plan)
    assert text.splitlines()[4:11] == [
        "|  | AP, paper | AP, ours | seeds |",
        "| --- | ---: | ---: | --- |",
        "| none | -0.500 | -0.375 ± 0.177 | 2 seeds |",
        "| **others** |  |  |  |",
        "| repeated | - | -0.375 ± 0.177 | 2 seeds |",
        "| absent | -0.250 | - | left out |",
        "",
    ]
    assert "* others, absent: left out: not built" in text
    assert "Paper: a made-up paper." in text
    assert "toys.yaml --rows none repeated absent`" in text


def test_scale_is_said_before_the_numbers(table):
    text = report(table, Plan("demo"))
    assert text.index("Two steps only.") < text.index("| none |")
    assert "--scale demo" in text


def test_column_of_unknown_numbers_is_left_out(content, write_table):
    for row in content["rows"]:
        row.pop("paper", None)
    text = report(read_table(write_table(content)), Plan())
    assert "|  | AP, ours | seeds |" in text


def test_bars_in_a_label_do_not_end_its_cell(content, write_table):
    content["rows"][0]["label"] = "a|b"
    assert "| a\\|b |" in report(read_table(write_table(content)), Plan())
