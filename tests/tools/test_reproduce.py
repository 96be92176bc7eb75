import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dropkey_core.engine.paths import PROJECT_ROOT
from projects.paper.tables import Plan, check_jobs, plan_jobs, read_table

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tables")]

TOYS = Path(__file__).parents[1] / "toy" / "toys.yaml"
TABLES = sorted(
    set(PROJECT_ROOT.glob("configs/*/*.yaml")) - set(PROJECT_ROOT.glob("configs/regimes/*"))
)
CLASSIFICATION = [path for path in TABLES if path.stem not in ("table6", "table7", "table8")]
FAST = [
    "train.max_iter=2",
    "train.loggers=[csv]",  # no pictures
    "dataloader.train.total_batch_size=8",
    "dataset.train.per_class=7",
    "dataset.test.per_class=2",
]


@pytest.fixture
def reproduce(load_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load_script("tools/reproduce").main


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@named(TABLES)
def test_every_setup_and_override_of_every_scale_is_right(path, tmp_path):
    """Configs, overrides and measurements are checked as they are before anything runs."""
    table = read_table(path)
    assert {"full", "demo"} <= set(table.seeds)
    for scale in table.seeds:
        jobs = plan_jobs(table, Plan(scale, tmp_path, seeds=(0,)))
        check_jobs(
            first_of_each(jobs, lambda job: {str(job.setup), (*job.row.overrides, job.row.stage)})
        )


def first_of_each(items, parts_of):
    """The items that have a part which none before them has."""
    seen, chosen = set(), []
    for item in items:
        if not parts_of(item) <= seen:
            seen |= parts_of(item)
            chosen.append(item)
    assert chosen
    return chosen


@named(TABLES)
def test_headed_by_its_command(path):
    header = path.read_text().split("\n\n")[0]
    assert f"tools/reproduce.py configs/{path.parent.name}/{path.name} --scale demo" in header


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One for all tables: they use each other's runs."""
    return tmp_path_factory.mktemp("tables")


def parts(table, row):
    """What a row does at demo scale, where many networks are one; so are all ratios but 0."""
    if row.left_out:
        return {row.left_out}
    if row.same_as:
        return parts(*table.find_row(row.same_as))
    start = parts(*table.find_row(row.weights_of)) if row.weights_of else set()
    overrides = re.sub(r"ratio=0?\.0*[1-9]\d*", "ratio=some", " ".join(row.overrides))
    return {str(table.setups[row.setup]["demo"]), f"{overrides} {row.stage}", *start}


@named(CLASSIFICATION)
def test_runs_at_demo_scale(path, reproduce, output, capsys):
    table = read_table(path)
    rows = Plan().rows_of(table)
    if path.stem == "table2":  # all 20, once: each pattern must fit into each network
        wanted = [row.weights_of or row.id for row in rows]
    else:
        wanted = [row.id for row in first_of_each(rows, lambda row: parts(table, row))]
    options = ["--scale", "demo", "--seeds", "0", "--output", str(output), "--rows", *wanted]
    assert reproduce([str(path), *FAST, *options]) == 0
    said = capsys.readouterr().out
    for name in ("table.md", "results.csv"):
        assert str(output / path.stem / "demo" / name) in said
    with (output / path.stem / "demo" / "results.csv").open() as file:
        found = {(row["row"], row["metric"]) for row in csv.DictReader(file)}
    for row in (table.find_row(name)[1] for name in wanted):
        for metric in table.metrics:
            assert ((row.id, metric.name) in found) is not bool(row.left_out)
        if (
            row.setup and table.setups[row.setup]["demo"].measure
        ):  # what its evaluator writes lies with it, not with the training
            assert (output / path.stem / "demo" / row.id / "seed0" / "predictions.csv").exists()


@pytest.fixture
def toys(reproduce, toy_folder):
    """The command in a folder with a small table."""
    shutil.copy(TOYS, toy_folder)
    return reproduce


def test_from_first_to_last(toys, capsys):
    assert toys(["toys.yaml", "--list"]) == 0
    assert "none      -0.500  not run   none" in capsys.readouterr().out
    assert toys(["toys.yaml", "--commands", "--rows", "none", "--num-gpus", "2"]) == 0
    assert "--config toy.yaml --num-gpus 2 train.max_iter=4" in capsys.readouterr().out
    assert toys(["toys.yaml", "--rows", "none", "--seeds", "1"]) == 0
    assert "1 seed" in capsys.readouterr().out
    assert toys(["toys.yaml"]) == 0
    said = capsys.readouterr().out
    assert "1 of 6 jobs are done" in said
    assert "| measured again | - | 30.000 ± 0.000 | 2 seeds |" in said
    assert toys(["toys.yaml", "--report"]) == 0
    assert "output/tables/toys/full/table.md" in capsys.readouterr().out
    assert toys(["toys.yaml", "optimizer.lr=0.5"]) == 2
    assert "optimizer.lr 0.01 there, 0.5 here" in capsys.readouterr().err
    assert toys(["toys.yaml", "--list", "optimizer.lr=0.5"]) == 0  # reads only, and tells it
    captured = capsys.readouterr()
    assert "none      -0.500" in captured.out
    assert "beware: " in captured.err


def test_nobody_reads_on(toy_folder):
    """As in ``tools/reproduce.py ... --commands | head``: no traceback."""
    shutil.copy(TOYS, toy_folder)
    script = str(PROJECT_ROOT / "tools/reproduce.py")
    command = [sys.executable, script, "toys.yaml", "--commands", "--seeds", *map(str, range(300))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"# none")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "error: no table 'nowhere.yaml' below"),
        (["toys.yaml", "--scale", "huge"], "has no scale 'huge'; it has full, demo"),
        (["toys.yaml", "--rows", "nnoe"], "has no row 'nnoe'; nearest is 'none'"),
        (["toys.yaml", "train.seed=4"], "'train.seed=4' is the table's to set: use --seeds"),
        (["toys.yaml", "model.widht=4"], "row none: unknown key 'model.widht'; nearest is"),
        (["toys.yaml", "--list", "model.widht=4"], "row none: unknown key 'model.widht'"),
        (["toys.yaml", "--commands", "model.widht=4"], "row none: unknown key 'model.widht'"),
    ],
)
def test_user_error_is_one_line_and_exit_2(toys, capsys, arguments, message):
    assert toys(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
