"""Worker of a plan: does what has no row yet, beside others that do the same."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from dropkey_core.engine.errors import UserError
from projects.paper.regimes.plan import Plan, Run
from projects.paper.regimes.results import Finished, Results


class Trains(Protocol):
    """What a worker needs of a ``Trainer``."""

    def settings(self, run: Run) -> str:
        """What the numbers of a run depend on besides it."""

    def __call__(self, run: Run) -> dict[str, float]:
        """Do a run, and return its numbers by column, ``seconds`` among them."""


def work(trainer: Trains, runs: Iterable[Run], results: Results) -> int:
    """Do the runs that neither have a row nor are done by another process now; return how many.

    Raises:
        UserError: a run has a row that other settings made; wrong settings; a full disk.
    """
    done = 0
    for run in runs:
        if is_done(trainer, run, results):
            continue
        with results.claim(run) as held:
            if not held or is_done(trainer, run, results):
                continue
            print(run, end=": ", flush=True)  # some take minutes
            finished = Finished(run, trainer.settings(run), trainer(run))
            results.append(finished)
            done += 1
        print(shown(finished.numbers), flush=True)
    return done


def is_done(trainer: Trains, run: Run, results: Results) -> bool:
    """Whether a run has a row; a UserError if other settings made it."""
    return bool(finished_runs(trainer, [run], results))


def finished_runs(trainer: Trains, runs: Iterable[Run], results: Results) -> dict[Run, Finished]:
    """The rows of those runs that have one; a UserError if other settings made one."""
    rows = results.read()
    finished = {run: rows[run] for run in runs if run in rows}
    for run, row in finished.items():
        if row.settings != (now := trainer.settings(run)):
            raise UserError(
                f"{results.path} has a row of {run} that other settings made ({row.settings}, now "
                f"{now}): take the row away, or name another file by --results"
            )
    return finished


def shown(numbers: dict[str, float]) -> str:
    """The numbers of a run in one line for a terminal."""
    return ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())


def repeat(trainer: Trains, runs: Iterable[Run], results: Results, wanted: Sequence[str]) -> bool:
    """Do finished runs once more, print old and new numbers, and say whether all are the same.

    Args:
        trainer: see ``work``, as the following two.
        runs: the plan's.
        results: as they are; nothing is written.
        wanted: ``column=value``, all of which must hold.

    Raises:
        UserError: no finished run is meant, or other settings made one.
    """
    meant = [run for run in runs if set(wanted) <= set(str(run).split())]
    finished = finished_runs(trainer, meant, results)
    if not finished:
        raise UserError(f"no finished run has {' '.join(wanted)}; a run reads: {next(iter(runs))}")
    same = True
    for run, row in finished.items():
        before, now = row.numbers, trainer(run)
        equal = shown({**before, "seconds": 0.0}) == shown({**now, "seconds": 0.0})
        print(f"{run}\n  before: {shown(before)}\n  now:    {shown(now)}", flush=True)
        print("  the same" if equal else "  not the same", flush=True)
        same = same and equal
    return same


def progress(plan: Plan, results: Results) -> str:
    """How many runs of each regime are done, a line each."""
    finished = results.read()
    planned, done = Counter[str](), Counter[str]()
    for run in plan.runs():
        name = " ".join(map(str, run.regime))
        planned[name] += 1
        done[name] += run in finished
    lines = [f"{name}: {done[name]} of {planned[name]}" for name in planned]
    return "\n".join([*lines, f"{done.total()} of {planned.total()} runs are done"])
