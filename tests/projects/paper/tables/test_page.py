import re
from html.parser import HTMLParser

import pytest

from projects.paper.tables import Plan, read_table
from projects.paper.tables.job import plan_jobs
from projects.paper.tables.page import page
from projects.paper.tables.record import Record
from projects.paper.tables.schema import Metric, Quoted
from projects.paper.tables.strip import MARGIN, WIDTH, common_range, draw
from projects.paper.tables.summary import Cell, summarise

AP = Metric("bbox/AP", "AP", 1)
VOID = {"meta", "circle", "path", "rect"}


class Cells(HTMLParser):
    """Texts of table cells, row by row; checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.rows, self.open = [], []

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1] += [""] * int(dict(attributes).get("colspan", 1))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open) and "title" not in self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def table(content, write_table):
    content["rows"][0]["label"] = "<script>alert('none')</script>"
    table = read_table(write_table(content))
    for job, value in zip(plan_jobs(table, Plan()), [-0.5, -0.25, -0.125], strict=False):
        Record(job.settings(), None, {"bbox/AP": value}).write(job.folder)
    return table


def test_the_same_numbers_as_in_markdown(table):
    text = page(table, Plan(), summarise(table, Plan()))
    cells = Cells()
    cells.feed(text)
    assert cells.open == []
    rows = {row[0]: row[1:] for row in cells.rows}
    assert rows["<script>alert('none')</script>"] == ["-0.500", "-0.375 ± 0.177", "", "2 seeds"]
    assert rows["tuned"] == ["-", "-0.125 ± -", "", "1 of 2 seeds"]
    assert rows["absent"] == ["-0.250", "-", "", "left out"]
    assert len({len(row) for row in cells.rows[2:]}) == 1  # below the two lines of headings


def test_page_is_closed_to_the_outside(table):
    text = page(table, Plan(), summarise(table, Plan()))
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href|url)\s*[=(]", text)


def test_many_columns_are_not_drawn(content, write_table):
    content["metrics"] = [{"name": f"a/{i}", "label": f"{i}"} for i in range(4)]
    for row in content["rows"]:
        row.pop("paper", None)
    table = read_table(write_table(content))
    job = plan_jobs(table, Plan())[0]
    Record(job.settings(), None, {f"a/{i}": float(i) for i in range(4)}).write(job.folder)
    text = page(table, Plan(), summarise(table, Plan()))
    assert "<svg" not in text
    assert "3.00 ± -" in text


def test_drawing_lies_on_the_common_axis():
    """Values 2 and 6, mean 4, s.d. 2.83: the axis ends at 1.17 and, by the paper's 10, at 10."""
    cell = Cell(AP, Quoted(10.0), (2.0, 6.0))
    low, high = common_range([cell], with_paper=True)
    assert (low, high) == (pytest.approx(4.0 - 8.0**0.5), 10.0)
    inner = WIDTH - 2 * MARGIN
    svg = draw(cell, (2.0, 10.0), with_paper=True)
    places = [float(x) for x in re.findall(r'circle class="seed" cx="([\d.]+)"', svg)]
    assert places == [MARGIN, MARGIN + inner / 2]
    assert f'class="mean" d="M{MARGIN + inner / 4:.1f}' in svg
    assert f'class="paper" d="M{WIDTH - MARGIN:.1f}' in svg
    assert 'class="paper"' not in draw(cell, (2.0, 10.0), with_paper=False)


def test_axis_of_a_single_number():
    assert common_range([Cell(AP, None, (5.0,))], True) == (pytest.approx(4.9), pytest.approx(5.1))
    assert common_range([Cell(AP, Quoted(3.0), ())], with_paper=False) is None
