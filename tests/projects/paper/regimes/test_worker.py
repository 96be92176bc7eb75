from dataclasses import replace

import pytest

from dropkey_core.engine import UserError
from projects.paper.regimes import Results, progress, repeat, work


class Counting:
    """Trains nothing; counts what it is asked for."""

    def __init__(self, finished):
        self.finished = finished
        self.done = []

    def settings(self, run):
        return "0a1b2c3d"

    def __call__(self, run):
        self.done.append(run)
        return self.finished(run).numbers


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "toys.csv")


@pytest.fixture
def trainer(finished):
    return Counting(finished)


def test_does_what_is_missing(plan, results, trainer, finished, capsys):
    runs = plan.runs()
    results.append(finished(runs[3]))
    assert work(trainer, runs, results) == 19
    assert trainer.done == runs[:3] + runs[4:]
    assert capsys.readouterr().out.startswith(f"{runs[0]}: train_top1 100, train_loss 0.25, ")
    assert work(trainer, runs, results) == 0
    assert len(results.read()) == 20


def test_interrupted_loses_the_run_in_progress_alone(plan, results, trainer, monkeypatch):
    def interrupt(self, run):
        if len(self.done) == 2:
            raise KeyboardInterrupt
        return train(self, run)

    train = Counting.__call__
    monkeypatch.setattr(Counting, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        work(trainer, plan.runs(), results)
    assert list(results.read()) == plan.runs()[:2]


def test_leaves_what_another_process_does(plan, results, trainer):
    runs = plan.runs()
    with Results(results.path).claim(runs[1]) as held:
        assert held
        assert work(trainer, runs, results) == 19
    assert runs[1] not in results.read()
    assert work(trainer, runs, results) == 1


def test_other_settings_are_refused(plan, results, trainer, finished):
    results.append(finished(plan.runs()[0], settings="ffffffff"))
    with pytest.raises(UserError, match=r"other settings made \(ffffffff, now 0a1b2c3d\)"):
        work(trainer, plan.runs(), results)


def test_repeats_what_is_asked_for(plan, results, trainer, finished, capsys):
    runs = plan.runs()
    assert work(trainer, runs, results) == 20
    trainer.done.clear()
    wanted = ["method=dropkey", "seed=1", "images=2"]
    assert repeat(trainer, runs, results, wanted)
    assert [(run.method, run.seed, run.images) for run in trainer.done] == [("dropkey", 1, 2)] * 2
    assert capsys.readouterr().out.endswith("  the same\n")
    trainer.finished = lambda run: finished(run, top1=51.0)
    assert not repeat(trainer, runs, results, wanted)
    assert capsys.readouterr().out.endswith("  not the same\n")
    with pytest.raises(UserError, match="no finished run has method=dropky; a run reads: data="):
        repeat(trainer, runs, results, ["method=dropky"])


def test_progress_counts_by_regime(plan, results, finished):
    results.append(finished(plan.runs()[0]))
    results.append(finished(replace(plan.runs()[0], seed=9)))  # not in the plan
    assert progress(plan, results).splitlines() == [
        "digits t2t 2 usual 3: 1 of 10",
        "digits t2t 3 usual 3: 0 of 10",
        "1 of 20 runs are done",
    ]
