import csv

import pytest
import yaml

from dropkey_core.engine.paths import PROJECT_ROOT
from projects.paper.regimes import TRAINERS, Results, finished_runs, read_plan, write_report

PLANS = sorted((PROJECT_ROOT / "configs/regimes").glob("*.yaml"))
named = pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)


@named
def test_every_network_of_every_plan_is_built(path):
    plan = read_plan(path)
    trainer = TRAINERS[plan.trainer](plan)
    different = {(run.network, run.method): run for run in plan.runs()}
    for run in different.values():
        assert trainer.settings(run)
        if plan.trainer == "memory":
            assert trainer.build(run).num_classes == 10
        else:
            assert trainer.config_of(run, "folder").model.drop_ratio == run.ratio


@named
def test_headed_by_its_command(path):
    header = path.read_text().split("\n\n")[0]
    assert f"tools/regimes.py configs/regimes/{path.name} " in header


@named
def test_committed_rows_are_those_of_the_plan(path):
    """Nobody has changed what the numbers depend on since."""
    if not path.with_suffix(".csv").exists():
        pytest.skip("no rows yet")
    plan = read_plan(path)
    trainer = TRAINERS[plan.trainer](plan)
    settings = {run: trainer.settings(run) for run in plan.runs()}
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    texts = {str(run): settings[run] for run in settings}
    assert rows
    for row in rows:
        name = " ".join(f"{key}={row[key]}" for key in list(row)[: list(row).index("settings")])
        assert texts[name] == row["settings"]


@named
def test_report_in_the_docs_is_of_the_committed_rows(path, tmp_path):
    if not path.with_suffix(".csv").exists():
        pytest.skip("no rows yet")
    plan = read_plan(path)
    results = Results(path.with_suffix(".csv"))
    rows = finished_runs(TRAINERS[plan.trainer](plan), plan.runs(), results)
    table = write_report(plan, list(rows.values()), tmp_path)
    assert table.read_text() == (PROJECT_ROOT / "docs/regimes" / table.name).read_text()


@pytest.fixture
def toys(load_script, tmp_path, monkeypatch):
    """The command in a folder with a plan of four short runs on digits."""
    content = yaml.safe_load((PROJECT_ROOT / "configs/regimes/digits_chosen.yaml").read_text())
    content["networks"]["t2t"]["overrides"] += ["dataset.test.per_class=2"]
    del content["grids"][1:]
    content["grids"][0] |= {"images": [2], "steps": [2], "method": ["none", "dropkey"]}
    content["grids"][0] |= {"ratio": [0.3], "seeds": 2, "first_seed": 0}
    for name in ("toys.yaml", "none_yet.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return load_script("tools/regimes").main


def test_from_first_to_last(toys, tmp_path, capsys):
    assert toys(["toys.yaml", "--list"]) == 0
    assert "digits t2t 2 weak 2: 0 of 4\n0 of 4 runs are done" in capsys.readouterr().out
    assert toys(["toys.yaml"]) == 0
    assert capsys.readouterr().out.count("test_top1") == 4
    assert (tmp_path / "toys.csv").read_text().count("\n") == 5
    assert toys(["toys.yaml"]) == 0
    assert capsys.readouterr().out == ""
    assert toys(["toys.yaml", "--again", "method=dropkey", "seed=1"]) == 0
    assert capsys.readouterr().out.endswith("  the same\n")
    assert toys(["toys.yaml", "--report", "report"]) == 0
    assert "report/toys.md" in capsys.readouterr().out
    assert "4 runs, 1 x 3 = 3 comparisons, 3 of them" in (tmp_path / "report/toys.md").read_text()
    assert toys(["toys.yaml", "none_yet.yaml", "--report", "all"]) == 0
    assert [path.name for path in (tmp_path / "all").glob("*.md")] == ["toys.md"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "error: no plan 'nowhere.yaml' below"),
        (["toys.yaml", "--report", "report"], "no finished pair of runs of"),
        (["toys.yaml", "--again", "seed=1"], "no finished run has seed=1; a run reads: data="),
        (["toys.yaml", "toys.yaml", "--results", "a.csv"], "--results is for one plan, got 2"),
    ],
)
def test_user_error_is_one_line_and_exit_2(toys, capsys, arguments, message):
    assert toys(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
