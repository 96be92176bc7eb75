"""Doing the jobs of a table: what is done stays, what is unfinished goes on, the rest begins."""

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.run_folder import LAST
from dropkey_core.engine.signals import TrainingStopped
from dropkey_core.engine.trainer import describe_metrics, train
from projects.paper.tables.claim import ClaimedElsewhere, claim
from projects.paper.tables.job import Job
from projects.paper.tables.measurement import measure_weights
from projects.paper.tables.processes import train_in_processes
from projects.paper.tables.record import (
    Metrics,
    Record,
    State,
    differences,
    metrics_of,
    read_record,
    state_of,
    step_reached,
)

SHOWN = 3  # settings that an error about an outdated result names


@dataclass
class Outcome:
    """What a call has done.

    Attributes:
        done: jobs that were finished by this call.
        failed: why others were not, by name.
        elsewhere: names of those that another process works on, or waits for.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)

    def raise_if_failed(self) -> None:
        """End a command with what went wrong.

        Raises:
            UserError: if a job failed, with the first reason.
        """
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            raise UserError(f"{len(self.failed)} of the jobs failed, first {name}: {reason}")


def begun(jobs: list[Job]) -> list[Job]:
    """Return the jobs that have left something in their folder."""
    return [job for job in jobs if read_record(job)]


def check_jobs(jobs: list[Job], overwrite: bool = False) -> None:
    """Check all settings, and that what the folders hold was made with them.

    Args:
        jobs: in the order in which they are done.
        overwrite: delete what was made with other settings, and what was made from that.

    Raises:
        UserError: wrong settings, or an outdated result without ``overwrite``.
    """
    deleted: set[tuple[str, str, int]] = set()
    for job in jobs:
        record = read_record(job)
        settings = job.settings()  # refuses wrong ones, whether there is a result or not
        changed = differences(job, settings, record) if record else []
        if record and job.parent and job.parent.key in deleted:
            changed.append(f"{job.row.weights_of} is run again")
        if not changed:
            continue
        if not overwrite:
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise UserError(
                f"{job.folder} was made with other settings ({'; '.join(changed[:SHOWN])}{more}): "
                "--overwrite runs it again, --output names another folder"
            )
        deleted.add(job.key)
    for job in jobs:
        if job.key in deleted:
            print(f"{job.name}: deleting what other settings made", flush=True)
            shutil.rmtree(job.folder)


def run_jobs(
    jobs: list[Job],
    num_gpus: int | None = None,
    after_job: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Do what is not done yet; a job that fails does not keep the others from running.

    Args:
        jobs: those that others need come first.
        num_gpus: processes of each training, one GPU each; None or 1: this process.
        after_job: called when a job has ended in whatever way, for instance to write a report.

    Raises:
        TrainingStopped: after Ctrl-C or SIGTERM, when the training that ran is saved.
    """
    outcome = Outcome()
    waiting = [job for job in jobs if state_of(job) is not State.done]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs are done", flush=True)
    began = time.monotonic()
    try:
        for number, job in enumerate(waiting):
            print(f"[{number + 1}/{len(waiting)}] {_announce(job)}", flush=True)
            _try(job, num_gpus, outcome)
            if number + 1 < len(waiting):
                seconds = (time.monotonic() - began) / (number + 1) * (len(waiting) - number - 1)
                print(f"about {timedelta(seconds=round(seconds))} to go", flush=True)
            after_job(outcome)
    except KeyboardInterrupt as error:  # not while training, which saves first
        raise TrainingStopped(signal.SIGINT) from error
    return outcome


def _announce(job: Job) -> str:
    if job.setup.measure:
        return f"{job.name}: measuring the weights of {job.row.weights_of}"
    step = step_reached(job)
    going_on = f", going on after about step {step}" if step else ""
    return f"{job.name}: training to step {job.config.train.max_iter}{going_on}"


def _try(job: Job, num_gpus: int | None, outcome: Outcome) -> None:
    """Do a job and write down what became of it."""
    try:
        with claim(job.folder):
            # Another process may have finished it since the list was made.
            if state_of(job) is not State.done:
                metrics = run_job(job, num_gpus)
                print(f"{job.name}: {describe_metrics(metrics)}", flush=True)
                outcome.done.append(job.name)
    except ClaimedElsewhere:
        print(f"{job.name}: another process works on it", flush=True)
        outcome.elsewhere.append(job.name)
    except _NotYet as reason:
        print(f"{job.name}: {reason}", flush=True)
        outcome.elsewhere.append(job.name)
    except UserError as error:
        print(f"{job.name} failed: {error.one_line()}", flush=True)
        outcome.failed[job.name] = error.one_line()


class _NotYet(Exception):
    """The weights that a job uses are not there yet."""


def run_job(job: Job, num_gpus: int | None = None) -> Metrics:
    """Do a job, from where it stopped, and keep its numbers.

    Raises:
        UserError: it failed.
        TrainingStopped: after Ctrl-C or SIGTERM, when ``last.pth`` is saved.
    """
    start = metrics_of(job.parent) if job.parent else None
    if job.parent and start is None:
        raise _NotYet(f"waits for {job.parent.name}")
    record = Record(job.settings(), start)
    record.write(job.folder)
    if job.setup.measure and job.parent:
        weights = job.parent.folder / LAST
        metrics = measure_weights(
            job.setup.measure, job.parent.config, weights, job.seed, job.folder
        )
    elif num_gpus is None or num_gpus == 1:
        metrics = train(job.config, resume=True)
    else:
        metrics = train_in_processes(job.config, num_gpus)
    Record(record.settings, start, metrics).write(job.folder)
    return metrics
