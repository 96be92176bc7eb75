"""Job runner of a table: what is done stays, what is unfinished is resumed, the rest begins.

Several processes may share the work: a file lock in a job's folder says that one works on it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from dropkey_core.engine.checkpoint import read_checkpoint
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import link_file, writing
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.run_folder import CONFIG, LAST, write_config
from dropkey_core.engine.signals import StopRequests, TrainingStopped
from dropkey_core.engine.trainer import describe_metrics, train
from projects.paper.tables.job import RECORD, Job, Metrics
from projects.paper.tables.measurement import measure_weights

SHOWN = 3  # settings that an error about an outdated result names
LOCK = ".lock"
TRAIN = PROJECT_ROOT / "tools" / "train_net.py"


class LeftAlone(Exception):
    """Another process works on the job, or on one that it waits for."""


def check_jobs(jobs: list[Job], overwrite: bool = False) -> None:
    """Check all settings, and that what the folders hold was made with them.

    With ``overwrite`` what was made with others, and what was made from that, is deleted.

    Raises:
        UserError: wrong settings, or an outdated result without ``overwrite``.
    """
    outdated: dict[str, Job] = {}
    for job in jobs:
        job.settings()  # refuses wrong ones, whether there is a result or not
        if not (record := job.record()):
            continue
        changed = job.differences(record)
        if job.parent and job.parent.name in outdated:
            changed.append(f"{job.row.weights_of} is run again")
        if changed and not overwrite:
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise UserError(
                f"{job.folder} was made with other settings ({'; '.join(changed[:SHOWN])}{more}): "
                "--overwrite runs it again, --output names another folder"
            )
        if changed:
            outdated[job.name] = job
    for job in outdated.values():
        print(f"{job.name}: deleting what other settings made", flush=True)
        shutil.rmtree(job.folder)


def run_jobs(
    jobs: list[Job],
    num_gpus: int | None = None,
    after_job: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Do what is not done yet; a job that fails does not keep the others from running.

    A job that must give the same numbers as one before it gets those, and its weights.

    Args:
        jobs: those that others need come first.
        num_gpus: processes of each training, one GPU each; None or 1: this process.
        after_job: called after each job, for instance to write a report.

    Returns:
        why jobs failed, by name

    Raises:
        TrainingStopped: after Ctrl-C or SIGTERM, when the training that ran is saved.
    """
    failed: dict[str, str] = {}
    firsts: dict[str, Job] = {}
    for job in sorted(jobs, key=lambda job: job.metrics() is None):  # what is done comes first
        firsts.setdefault(job.identity, job)
    waiting = [job for job in jobs if job.metrics() is None]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs are done", flush=True)
    try:
        for number, job in enumerate(waiting, 1):
            print(f"[{number}/{len(waiting)}] {job.name}", flush=True)
            try:
                said = run_job(job, firsts[job.identity], num_gpus)
            except LeftAlone as reason:
                said = str(reason)
            except UserError as error:
                failed[job.name] = error.one_line()
                said = f"failed: {failed[job.name]}"
            print(f"{job.name}: {said}", flush=True)
            after_job()
    except KeyboardInterrupt as error:  # not while training, which saves first
        raise TrainingStopped(signal.SIGINT) from error
    return failed


def run_job(job: Job, first: Job, num_gpus: int | None = None) -> str:
    """Do a job, from where it stopped, keep its numbers, and return them in one line.

    Args:
        job: the job.
        first: the one that runs in its place, often itself; of the same ``identity``.
        num_gpus: see ``run_jobs``.

    Raises:
        LeftAlone: another process works on it, or what it needs is not there yet.
        UserError: it failed.
        TrainingStopped: after Ctrl-C or SIGTERM, when ``last.pth`` is saved.
    """
    with claim(job.folder):
        # Another process may have finished it since the list was made.
        if (metrics := job.metrics()) is None:
            start = job.parent.metrics() if job.parent else None
            if job.parent and start is None:
                raise LeftAlone(f"waits for {job.parent.name}")
            job.write_record(start)
            metrics = _numbers(job, num_gpus) if job is first else _take_over(job, first)
            job.write_record(start, metrics)
    return describe_metrics(metrics)


def _take_over(job: Job, first: Job) -> Metrics:
    """Give a job the numbers of an equal one, and a copy of its files."""
    if (metrics := first.metrics()) is None:
        raise LeftAlone(f"waits for {first.name}, which is the same")
    if job.setup.config:
        write_config(job.folder, job.config)
    for path in set(first.folder.glob("*.*")) - {first.folder / RECORD, first.folder / CONFIG}:
        if path.suffix == ".pth":  # is replaced, never rewritten
            link_file(path, job.folder / path.name)
        elif path.is_file():
            shutil.copyfile(path, job.folder / path.name)
    print(f"the same as {first.name}", flush=True)
    return metrics


def _numbers(job: Job, num_gpus: int | None) -> Metrics:
    if job.setup.measure and job.parent:
        weights = job.parent.folder / LAST
        return measure_weights(job.setup.measure, job.parent.config, weights, job.seed, job.folder)
    if num_gpus is None or num_gpus == 1:
        return train(job.config, resume=True)
    return train_in_processes(job.config, num_gpus)


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a folder for the time of the block; the system lets go of it if this process dies.

    Raises:
        LeftAlone: another process holds it.
        UserError: the folder cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise LeftAlone("another process works on it") from error
    try:
        yield
    finally:
        lock.release()


def train_in_processes(config: DictConfig, num_gpus: int) -> Metrics:
    """Train as :func:`~dropkey_core.engine.train` does with ``resume``, on several GPUs.

    In a command of its own, which the engine runs again for each further process.

    Raises:
        UserError: the training failed; it has said why.
        TrainingStopped: after Ctrl-C or SIGTERM, when ``last.pth`` is saved.
    """
    folder = Path(config.train.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    command = [sys.executable, str(TRAIN), "--config", str((folder / CONFIG).absolute())]
    command += ["--resume", "--num-gpus", str(num_gpus)]
    with StopRequests() as stop:
        # In a session of its own: a terminal's Ctrl-C reaches it by way of this process alone. A
        # second one would end it unsaved.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            while process.poll() is None and not stop.received:
                time.sleep(0.5)
            if stop.received:
                process.send_signal(stop.received)
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
            raise
        stop.raise_if_received()
    if process.returncode:
        raise UserError(f"the training ended with exit code {process.returncode}, see above")
    state = read_checkpoint(folder / LAST)
    if state["step"] < config.train.max_iter:
        raise UserError(f"the training stopped after step {state['step']}; call again to go on")
    return cast(Metrics, state["metrics"])
