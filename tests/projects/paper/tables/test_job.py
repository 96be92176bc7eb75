from pathlib import Path

import pytest

from dropkey_core.engine import UserError
from projects.paper.tables import Plan, read_table
from projects.paper.tables.job import jobs_of_row, plan_jobs


@pytest.fixture
def table(content, write_table):
    return read_table(write_table(content))


def names(jobs):
    return [job.name for job in jobs]


def test_each_job_once_and_after_what_it_needs(table):
    """The row ``repeated`` adds nothing: its numbers are those of ``none``."""
    assert names(plan_jobs(table, Plan())) == [
        "toys/none, seed 0", "toys/none, seed 1", "toys/tuned, seed 0", "toys/tuned, seed 1",
        "toys/again, seed 0", "toys/again, seed 1",
    ]  # fmt: skip


def test_wanted_rows_bring_what_they_need(table):
    plan = Plan(rows=("tuned",), seeds=(5,))
    assert names(plan_jobs(table, plan)) == ["toys/none, seed 5", "toys/tuned, seed 5"]


def test_repeated_row_has_the_jobs_of_the_other(table):
    plan = Plan("demo")
    assert names(jobs_of_row(table, table.find_row("repeated")[1], plan)) == ["toys/none, seed 0"]
    assert jobs_of_row(table, table.find_row("absent")[1], plan) == []


def test_config_of_a_training(table):
    tuned = plan_jobs(table, Plan("demo", overrides=("optimizer.lr=0.5",)))[1]
    assert tuned.folder == Path("output/tables/toys/demo/tuned/seed0")
    train = tuned.config.train
    assert (train.seed, train.max_iter) == (0, 2)
    assert train.output_dir == str(tuned.folder)
    assert train.init_checkpoint == "output/tables/toys/demo/none/seed0/last.pth"
    assert tuned.config.optimizer.lr == 0.5


def test_stage_goes_on_from_the_weights_before_it(staged, write_table):
    plan = Plan("demo", rows=("twice", "pure"))
    first, second = plan_jobs(read_table(write_table(staged)), plan)
    assert names([first, second]) == ["toys/twice.first, seed 0", "toys/twice, seed 0"]
    assert first.config.train.max_iter == 2
    assert second.config.train.max_iter == 1
    assert second.config.train.init_checkpoint == f"{first.folder}/last.pth"
    assert first.config.model.drop_ratio == second.config.model.drop_ratio == 0.25


def test_rows_that_are_not_reported_are_run_for_others_only(staged, write_table):
    table = read_table(write_table(staged))
    assert "twice.first" not in [row.id for row in Plan().rows_of(table)]
    assert [row.id for row in Plan(rows=("twice.first",)).rows_of(table)] == ["twice.first"]


def test_settings_leave_out_where_and_how_it_runs(table, tmp_path):
    """A run counts as the same on another device, in another folder, logged more often."""
    overrides = ("train.log_period=3", "dataloader.test.num_workers=2", "train.device=cuda")
    here = plan_jobs(table, Plan())[2]
    there = plan_jobs(table, Plan(output=tmp_path / "else", overrides=overrides))[2]
    assert here.name == "toys/tuned, seed 0"
    assert here.settings() == there.settings()
    other = plan_jobs(table, Plan(overrides=("optimizer.lr=0.5",)))[2]
    assert here.settings() != other.settings()


@pytest.mark.parametrize(
    ("override", "option"), [("train.seed=3", "--seeds"), ("train.output_dir=x", "--output")]
)
def test_overrides_that_are_the_tables(override, option):
    with pytest.raises(UserError, match=f"{override}.* use {option}"):
        Plan(overrides=(override,))


def test_wrong_override_names_the_row(content, write_table):
    content["rows"][0]["overrides"] = ["model.widht=3"]
    job = plan_jobs(read_table(write_table(content)), Plan())[0]
    with pytest.raises(UserError, match=r"toys.yaml, row none: .*nearest is 'model.width'"):
        job.settings()


def test_wrong_measurement_names_the_row(content, write_table):
    content["setups"]["count"]["full"]["measure"]["tmies"] = 3
    job = plan_jobs(read_table(write_table(content)), Plan(rows=("again",)))[-1]
    with pytest.raises(UserError, match=r"row again: .*nearest is 'measure.times'"):
        job.settings()
