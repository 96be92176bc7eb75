import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dropkey_core.engine import TrainingStopped, UserError, read_checkpoint, train
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.trainer import Trainer
from projects.paper.tables import Plan, check_jobs, plan_jobs, read_table, run_jobs, running
from projects.paper.tables.running import claim, train_in_processes

pytestmark = pytest.mark.slow

DEMO = Plan("demo")


@pytest.fixture
def jobs(content, write_table):
    return plan_jobs(read_table(write_table(content)), DEMO)


def test_all_jobs_run_once(jobs, capsys):
    """A training, one from its weights, and a measurement that sees model and test set."""
    assert run_jobs(jobs) == {}
    assert f"from {jobs[0].folder / 'last.pth'}" in capsys.readouterr().out
    state = read_checkpoint(jobs[0].folder / "last.pth")
    assert jobs[0].metrics() == state["metrics"]
    assert state["step"] == 2
    assert jobs[2].metrics() == {"bbox/AP": 30.0, "seed": 0.0}  # three times the ten images
    records = [job.folder / "row.json" for job in jobs]
    before = [record.stat().st_mtime_ns for record in records]
    assert run_jobs(jobs) == {}
    assert [record.stat().st_mtime_ns for record in records] == before
    assert "3 of 3 jobs are done" in capsys.readouterr().out


def test_interrupted_training_goes_on_to_the_same_numbers(jobs, content, write_table, monkeypatch):
    """Stopped after its first step and taken up again: as if nothing had happened."""
    run_jobs(jobs[:1])
    whole = jobs[0].metrics()
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
    assert again.record()["metrics"] is None
    monkeypatch.setattr(Trainer, "train_step", step)
    run_jobs([again])
    assert again.metrics() == whole


def test_ctrl_c_while_measuring(jobs, monkeypatch):
    run_jobs(jobs[:1])

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "measure_weights", interrupted)
    with pytest.raises(TrainingStopped) as stopped:
        run_jobs(jobs[2:])
    assert stopped.value.exit_code == 130
    assert jobs[2].record()["metrics"] is None


def test_failure_leaves_the_others_running(content, write_table, capsys):
    content["rows"][0]["overrides"] = ["dataloader.train.mapper.refuse=3"]
    content["rows"].append({"id": "fine", "label": "fine", "setup": "toy"})
    jobs = plan_jobs(read_table(write_table(content)), DEMO)
    assert run_jobs(jobs) == {"toys/none, seed 0": "/nowhere/3.jpg: the image is truncated"}
    said = capsys.readouterr().out
    for name in ("tuned", "again"):
        assert f"toys/{name}, seed 0: waits for toys/none, seed 0" in said
    assert jobs[3].metrics()


def test_equal_jobs_run_once(content, write_table, monkeypatch):
    """Rows of other names with the same settings, and what is made from their weights."""
    more = {"none_again": {"overrides": ["model.drop_ratio=0.0"]}, "other": {}}
    more["tuned_again"] = {"weights_of": "none_again"}
    for name, settings in more.items():
        content["rows"].append({"id": name, "label": name, "setup": "toy", **settings})
    content["rows"][-2]["overrides"] = ["model.drop_ratio=0.25"]
    jobs = plan_jobs(read_table(write_table(content)), DEMO)
    trained = []

    def counted(config, resume):
        trained.append(Path(config.train.output_dir).parent.name)
        return train(config, resume=resume)

    monkeypatch.setattr(running, "train", counted)
    assert run_jobs(jobs) == {}
    assert sorted(trained) == ["none", "other", "tuned"]
    by_row = {job.row.id: job for job in jobs}
    for name in ("none", "tuned"):
        job, again = by_row[name], by_row[f"{name}_again"]
        assert again.metrics() == job.metrics()
        states = [read_checkpoint(each.folder / "last.pth")["model"] for each in (job, again)]
        torch.testing.assert_close(*states, rtol=0, atol=0)
        assert (again.folder / "config.yaml").read_text() != (
            job.folder / "config.yaml"
        ).read_text()
    check_jobs(jobs)


def test_two_processes_share_the_work(jobs, capsys):
    with claim(jobs[0].folder):
        run_jobs(jobs)
    assert "toys/none, seed 0: another process works on it" in capsys.readouterr().out
    assert jobs[0].metrics() is None
    run_jobs(jobs[:1])
    assert jobs[0].metrics()


def test_run_of_the_training_command_counts(jobs):
    """A folder that tools/train_net.py has filled, with its config and without our record."""
    job = jobs[0]
    metrics = train(job.config)
    assert job.record()["metrics"] is None
    check_jobs(jobs)
    run_jobs([job])
    assert job.metrics() == metrics


@pytest.fixture
def others(content, write_table, jobs):
    """The jobs with another setting, in the same folders."""
    content["rows"][0]["overrides"] = ["model.drop_ratio=0.25"]
    return plan_jobs(read_table(write_table(content)), DEMO)


@pytest.mark.parametrize("begun", [run_jobs, lambda jobs: train(jobs[0].config)])
def test_numbers_of_other_settings_are_refused(jobs, others, begun):
    begun(jobs)
    check_jobs(jobs)
    with pytest.raises(UserError, match=r"drop_ratio 0.0 there, 0.25 here\): --overwrite"):
        check_jobs(others)


def test_overwriting_takes_along_what_was_made_from_it(jobs, others):
    run_jobs(jobs)
    check_jobs(others, overwrite=True)
    assert [job.record() for job in others] == [None] * 3


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
    with pytest.raises(UserError, match=r"row.json cannot be read as JSON"):
        jobs[0].record()


@pytest.fixture
def config(jobs):
    return jobs[0].config


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a few lines of Python in the place of tools/train_net.py."""

    def put(*lines):
        script = tmp_path / "stand_in.py"
        script.write_text("\n".join(("import sys, time", *lines)))
        monkeypatch.setattr(running, "TRAIN", script)

    return put


def leave(config, step):
    folder = Path(config.train.output_dir)
    folder.mkdir(parents=True)
    torch.save({"step": step, "metrics": {"bbox/AP": 1.5}}, folder / "last.pth")


def test_metrics_are_those_of_the_last_checkpoint(config, stand_in):
    leave(config, config.train.max_iter)
    stand_in("assert sys.argv[3:] == ['--resume', '--num-gpus', '2'], sys.argv")
    assert train_in_processes(config, 2) == {"bbox/AP": 1.5}


@pytest.mark.parametrize(
    ("exit_code", "message"),
    [(2, "ended with exit code 2, see above"), (0, "stopped after step 1; call again to go on")],
)
def test_training_that_failed_or_ended_early(config, stand_in, exit_code, message):
    leave(config, 1)
    stand_in(f"sys.exit({exit_code})")
    with pytest.raises(UserError, match=message):
        train_in_processes(config, 2)


def test_ctrl_c_in_a_terminal(content, write_table, monkeypatch):
    """Reaches each process once: the training saves, and the same command goes on."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT / "tests" / "toy"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = write_table(content)
    command = [sys.executable, str(PROJECT_ROOT / "tools" / "reproduce.py"), path.name]
    command += ["--rows", "none", "--seeds", "0", "--num-gpus", "2", "train.max_iter=100000"]
    command += ["train.eval_period=0"]
    process = subprocess.Popen(
        command, cwd=path.parent, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not process.stdout.readline().startswith("step 3/"):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command with --resume goes on" in out
    (job,) = plan_jobs(read_table(path), Plan(rows=("none",), seeds=(0,)))
    assert job.record()["metrics"] is None
    assert read_checkpoint(job.folder / "last.pth")["step"] >= 3
