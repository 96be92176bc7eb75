import json
import signal

import pytest

from dropkey_core.engine import TrainingStopped, UserError, read_checkpoint, train
from dropkey_core.engine.trainer import Trainer
from projects.paper.tables import Plan, read_table, running
from projects.paper.tables.claim import claim
from projects.paper.tables.job import plan_jobs
from projects.paper.tables.record import State, metrics_of, state_of
from projects.paper.tables.running import check_jobs, run_jobs

DEMO = Plan("demo")


@pytest.fixture
def jobs(content, write_table):
    return plan_jobs(read_table(write_table(content)), DEMO)


def modified(jobs):
    return [(job.folder / "row.json").stat().st_mtime_ns for job in jobs]


def test_numbers_are_those_of_the_training(jobs):
    outcome = run_jobs(jobs[:1])
    assert outcome.done == ["toys/none, seed 0"]
    state = read_checkpoint(jobs[0].folder / "last.pth")
    assert metrics_of(jobs[0]) == state["metrics"]
    assert state["step"] == 2


def test_what_is_done_stays(jobs, capsys):
    run_jobs(jobs)
    before = modified(jobs)
    assert run_jobs(jobs).done == []
    assert modified(jobs) == before
    assert "3 of 3 jobs are done" in capsys.readouterr().out


def test_second_row_starts_from_the_weights_of_the_first(jobs, capsys):
    run_jobs(jobs[:2])
    assert f"from {jobs[0].folder / 'last.pth'}" in capsys.readouterr().out


def test_measurement_sees_model_and_test_set(jobs):
    run_jobs(jobs)
    assert metrics_of(jobs[2]) == {"bbox/AP": 30.0, "seed": 0.0}  # three times the ten images


def test_interrupted_training_goes_on_to_the_same_numbers(jobs, content, write_table, monkeypatch):
    """Stopped after its first step and taken up again: as if nothing had happened."""
    run_jobs(jobs[:1])
    whole = metrics_of(jobs[0])
    content["title"] = "the same once more"
    again = plan_jobs(read_table(write_table(content, "again")), DEMO)[0]

    step = Trainer.train_step

    def stopped_by_sigterm(trainer, batch):
        losses = step(trainer, batch)
        signal.raise_signal(signal.SIGTERM)
        return losses

    monkeypatch.setattr(Trainer, "train_step", stopped_by_sigterm)
    with pytest.raises(TrainingStopped):
        run_jobs([again])
    assert state_of(again) is State.unfinished
    monkeypatch.setattr(Trainer, "train_step", step)
    run_jobs([again])
    assert metrics_of(again) == whole


def test_ctrl_c_while_measuring(jobs, monkeypatch):
    run_jobs(jobs[:1])

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "measure_weights", interrupted)
    with pytest.raises(TrainingStopped) as stopped:
        run_jobs(jobs[2:])
    assert stopped.value.exit_code == 130
    assert state_of(jobs[2]) is State.unfinished


def test_failure_leaves_the_others_running(content, write_table):
    content["rows"][0]["overrides"] = ["dataloader.train.mapper.refuse=3"]
    content["rows"].append({"id": "fine", "label": "fine", "setup": "toy"})
    jobs = plan_jobs(read_table(write_table(content)), DEMO)
    outcome = run_jobs(jobs)
    assert outcome.done == ["toys/fine, seed 0"]
    assert outcome.failed == {"toys/none, seed 0": "/nowhere/3.jpg: the image is truncated"}
    assert outcome.elsewhere == ["toys/tuned, seed 0", "toys/again, seed 0"]  # wait for it
    with pytest.raises(UserError, match="1 of the jobs failed, first toys/none, seed 0: /nowhere"):
        outcome.raise_if_failed()


def test_two_processes_share_the_work(jobs):
    with claim(jobs[0].folder):
        outcome = run_jobs(jobs)
    assert outcome.done == []
    assert outcome.elsewhere[0] == "toys/none, seed 0"
    assert run_jobs(jobs[:1]).done == ["toys/none, seed 0"]


def test_run_of_the_training_command_counts(jobs):
    """A folder that tools/train_net.py has filled, with its config and without our record."""
    job = jobs[0]
    metrics = train(job.config)
    assert state_of(job) is State.unfinished
    check_jobs(jobs)
    run_jobs([job])
    assert metrics_of(job) == metrics


def changed_jobs(content, write_table, override):
    content["rows"][0]["overrides"] = [override]
    return plan_jobs(read_table(write_table(content)), DEMO)


def test_numbers_of_other_settings_are_refused(jobs, content, write_table):
    run_jobs(jobs)
    check_jobs(jobs)
    others = changed_jobs(content, write_table, "model.drop_ratio=0.25")
    with pytest.raises(UserError, match=r"drop_ratio 0.0 there, 0.25 here\): --overwrite"):
        check_jobs(others)


def test_begun_by_the_training_command_with_other_settings(jobs, content, write_table):
    train(jobs[0].config)
    others = changed_jobs(content, write_table, "model.drop_ratio=0.25")
    with pytest.raises(UserError, match=r"drop_ratio 0.0 there, 0.25 here"):
        check_jobs(others)


def test_overwriting_takes_along_what_was_made_from_it(jobs, content, write_table):
    run_jobs(jobs)
    others = changed_jobs(content, write_table, "model.drop_ratio=0.25")
    check_jobs(others, overwrite=True)
    assert [state_of(job) for job in others] == [State.missing] * 3


def test_weights_that_were_trained_anew(jobs):
    """Numbers made from weights that are no longer there are outdated."""
    run_jobs(jobs)
    record = jobs[0].folder / "row.json"
    content = json.loads(record.read_text())
    content["metrics"]["bbox/AP"] += 1.0
    record.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tuned.*the weights of none were others"):
        check_jobs(jobs)


def test_damaged_record(jobs):
    run_jobs(jobs[:1])
    (jobs[0].folder / "row.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*row.json: .*; delete it to run the row"):
        state_of(jobs[0])
