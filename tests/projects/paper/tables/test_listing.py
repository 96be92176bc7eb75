import shlex

import pytest

from projects.paper.tables import Plan, read_table
from projects.paper.tables.job import plan_jobs
from projects.paper.tables.listing import commands, listing
from projects.paper.tables.record import Record


@pytest.fixture
def table(staged, write_table):
    staged["rows"][0]["note"] = "first of all"
    return read_table(write_table(staged))


def test_the_papers_numbers_and_what_is_done(table):
    jobs = plan_jobs(table, Plan())
    Record(jobs[0].settings(), None, {"bbox/AP": -0.5}).write(jobs[0].folder)
    Record({}, None, None).write(jobs[1].folder)
    assert listing(table, Plan()).splitlines() == [
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


def test_commands_are_what_the_jobs_do(table):
    plan = Plan("demo", rows=("twice",), overrides=("optimizer.lr=0.5",))
    folder = "output/tables/toys/demo"
    assert commands(table, plan).splitlines() == [
        "# trained twice, before shorter, seed 0",
        "tools/train_net.py --config toy.yaml train.max_iter=2 model.drop_ratio=0.25 "
        f"optimizer.lr=0.5 train.seed=0 train.output_dir={folder}/twice.first/seed0",
        "# trained twice, seed 0",
        f"tools/train_net.py --config toy.yaml --weights {folder}/twice.first/seed0/last.pth "
        "train.max_iter=2 model.drop_ratio=0.25 train.max_iter=1 optimizer.lr=0.5 train.seed=0 "
        f"train.output_dir={folder}/twice/seed0",
    ]
    assert "--config toy.yaml --num-gpus 8 train" in commands(table, plan, 8)


def test_what_a_command_has_trained_is_the_tables(table, load_script):
    """Begun by hand, the rows are found where ``tools/reproduce.py`` looks for them."""
    plan = Plan("demo", rows=("twice", "again"))
    for line in commands(table, plan).splitlines():
        if not line.startswith("#"):
            script, *arguments = shlex.split(line)
            assert load_script(script.removesuffix(".py")).main(arguments) == 0
    done = listing(table, plan).splitlines()[-1]
    assert done == "2 of 4 jobs are done, 2 unfinished"  # whose numbers are still to be kept
