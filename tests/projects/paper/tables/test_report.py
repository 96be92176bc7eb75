import csv
import shlex
from pathlib import Path

import pytest

from dropkey_core.engine import UserError
from projects.paper.tables import Plan, commands, listing, plan_jobs, read_table
from projects.paper.tables.report import markdown, mean_and_spread, summarise, write_csv
from projects.paper.tables.table import Metric


@pytest.fixture
def table(content, write_table):
    return read_table(write_table(content))


@pytest.fixture
def staged_table(staged, write_table):
    staged["rows"][0]["note"] = "first of all"
    return read_table(write_table(staged))


def report(table, plan):
    return markdown(table, plan, summarise(table, plan))


def test_paper_and_ours_side_by_side(table):
    plan = Plan(rows=("none", "repeated", "absent"))
    for job, value in zip(plan_jobs(table, plan), [-0.5, -0.25], strict=True):
        job.write_record(None, {"bbox/AP": value})
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
    assert "\n\nothers, absent: left out: not built\n\n" in text
    assert "Paper: a made-up paper." in text
    assert "toys.yaml --rows none repeated absent\n" in text


def test_scale_is_said_before_the_numbers(table):
    text = report(table, Plan("demo"))
    assert text.index("Two steps only.") < text.index("| none |")
    assert "--scale demo" in text


def test_column_of_unknown_numbers_is_left_out(content, write_table):
    for row in content["rows"]:
        row.pop("paper", None)
    content["metrics"][0]["better"] = "lower"
    text = report(read_table(write_table(content)), Plan())
    assert "|  | AP ↓, ours | seeds |" in text


def test_bars_in_a_label_do_not_end_its_cell(content, write_table):
    content["rows"][0]["label"] = "a|b"
    assert "| a\\|b |" in report(read_table(write_table(content)), Plan())


def test_the_papers_numbers_and_what_is_done(staged_table):
    jobs = plan_jobs(staged_table, Plan())
    jobs[0].write_record(None, {"bbox/AP": -0.5})
    jobs[1].write_record(None)
    assert listing(staged_table, Plan()).splitlines() == [
        "Toys: the paper's numbers",
        "row       AP              ours",
        "none      -0.500          1 of 2 seeds  none",
        "tuned     -               not run       tuned",
        "again     -               not run       measured again",
        "repeated  -               1 of 2 seeds  others, repeated",
        "absent    -0.250          left out      others, absent",
        "twice     -0.125 ± 0.500  not run       trained twice",
        "pure      -               not run       once",
        "Paper: a made-up paper.",
        "* Higher is better.",
        "* none: first of all",
        "* others, absent: left out: not built",
        "1 of 10 jobs are done, 1 unfinished",
    ]


def test_commands_are_what_the_jobs_do(staged_table):
    plan = Plan("demo", rows=("twice",), overrides=("optimizer.lr=0.5",))
    folder = "output/tables/toys/demo"
    assert commands(staged_table, plan).splitlines() == [
        "# twice.first: trained twice, before shorter, seed 0",
        "tools/train_net.py --config toy.yaml train.max_iter=2 model.drop_ratio=0.25 "
        f"optimizer.lr=0.5 train.seed=0 train.output_dir={folder}/twice.first/seed0",
        "# twice: trained twice, seed 0",
        f"tools/train_net.py --config toy.yaml --weights {folder}/twice.first/seed0/last.pth "
        "train.max_iter=2 model.drop_ratio=0.25 train.max_iter=1 optimizer.lr=0.5 train.seed=0 "
        f"train.output_dir={folder}/twice/seed0",
    ]
    assert "--config toy.yaml --num-gpus 8 train" in commands(staged_table, plan, 8)
    measured = Plan("demo", Path("else where"), rows=("again", "absent"))
    assert commands(staged_table, measured).splitlines()[-2:] == [
        f"tools/reproduce.py {staged_table.path} --scale demo --rows again --seeds 0 "
        "--output 'else where'",
        "# absent: others, absent, left out: not built",
    ]


def test_what_a_command_has_trained_is_the_tables(staged_table, load_script):
    """Begun by hand, the rows are found where ``tools/reproduce.py`` looks for them."""
    plan = Plan("demo", rows=("twice", "again"))
    for line in commands(staged_table, plan).splitlines():
        if not line.startswith("#"):
            script, *arguments = shlex.split(line)
            assert load_script(script.removesuffix(".py")).main(arguments) == 0
    done = listing(staged_table, plan).splitlines()[-1]
    assert done == "2 of 4 jobs are done, 2 unfinished"  # whose numbers are still to be kept


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
