import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dropkey_core.engine.paths import PROJECT_ROOT
from projects.paper.tables import Plan, read_table
from projects.paper.tables.job import plan_jobs
from projects.paper.tables.running import check_jobs

TOYS = Path(__file__).parents[1] / "toy" / "toys.yaml"
TABLES = sorted(PROJECT_ROOT.glob("configs/*/*.yaml"))
CLASSIFICATION = [path for path in TABLES if path.stem not in ("table6", "table7", "table8")]
FAST = [
    "train.max_iter=2",
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
def test_every_row_of_every_scale_can_be_run(path, tmp_path):
    """Configs, overrides and measurements are checked as they are before anything runs."""
    table = read_table(path)
    assert {"full", "demo"} <= set(table.seeds)
    for scale in table.seeds:
        jobs = plan_jobs(table, Plan(scale, tmp_path, seeds=(0,)))
        check_jobs(jobs)
        assert jobs


@named(TABLES)
def test_headed_by_its_command(path):
    header = path.read_text().split("\n\n")[0]
    assert f"tools/reproduce.py configs/{path.parent.name}/{path.name} --scale demo" in header


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One for all tables: they use each other's runs."""
    return tmp_path_factory.mktemp("tables")


def different_rows(table):
    """Ids of the rows that are not the same as an earlier one at demo scale: its networks are."""
    rows = {}
    for row in Plan().rows_of(table):
        setup = table.setups.get(row.setup, {}).get("demo")
        trained = (str(setup), *row.overrides, row.stage, row.weights_of.removesuffix(".first"))
        same = row.same_as.removesuffix(".first") or trained
        if row.stage and row.weights_of.endswith(".first"):
            same = (str(setup), *row.overrides, row.stage)
        rows.setdefault(same, row.id)
    return list(rows.values())


@named(CLASSIFICATION)
def test_runs_at_demo_scale(path, reproduce, output, capsys):
    table = read_table(path)
    wanted = different_rows(table)
    options = ["--scale", "demo", "--seeds", "0", "--output", str(output), "--rows", *wanted]
    assert reproduce([str(path), *FAST, *options]) == 0
    said = capsys.readouterr().out
    for name in ("table.md", "table.html", "results.csv"):
        assert str(output / path.stem / "demo" / name) in said
    with (output / path.stem / "demo" / "results.csv").open() as file:
        found = {(row["row"], row["metric"]) for row in csv.DictReader(file)}
    for row in (table.rows[name] for name in wanted):
        for metric in table.metrics:
            assert ((row.id, metric.name) in found) is not bool(row.left_out)
        if table.measures(row):  # what its evaluator writes lies with it, not with the training
            assert (output / path.stem / "demo" / row.id / "seed0" / "predictions.csv").exists()


def test_every_cell_of_table_2_is_trained():
    table = read_table("configs/paper/table2.yaml")
    assert len(different_rows(table)) == len(Plan().rows_of(table)) == 20


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
    assert "output/tables/toys/full/table.html" in capsys.readouterr().out
    assert toys(["toys.yaml", "optimizer.lr=0.5"]) == 2
    assert "optimizer.lr 0.01 there, 0.5 here" in capsys.readouterr().err


def test_nobody_reads_on(toy_folder):
    """As in ``tools/reproduce.py ... --commands | head``: no traceback."""
    shutil.copy(TOYS, toy_folder)
    script = str(PROJECT_ROOT / "tools/reproduce.py")
    command = [sys.executable, script, "toys.yaml", "--commands", "--seeds", *map(str, range(900))]
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
    ],
)
def test_user_error_is_one_line_and_exit_2(toys, capsys, arguments, message):
    assert toys(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
