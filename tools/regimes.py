#!/usr/bin/env python
"""Train small networks in many regimes, each with and without DropKey, paired by seed.

tools/regimes.py configs/regimes/digits_screen.yaml            # what its CSV lacks
tools/regimes.py configs/regimes/digits_screen.yaml --list     # how far it is
tools/regimes.py configs/regimes/digits_screen.yaml --again images=10 method=dropkey seed=3
tools/regimes.py configs/regimes/*.yaml --report docs/regimes    # of all that have rows

Stop it at any time: the same command goes on, and loses at most the run that it was at. The same
command in another terminal shares the work; each works on one core.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plans", nargs="+", metavar="FILE", help="the plan's YAML")
    what = "the CSV of a single plan; default: beside the plan"
    parser.add_argument("--results", type=Path, metavar="FILE", help=what)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true", help="count what is done, by regime")
    what = "train these runs once more, and compare; nothing is written"
    only.add_argument("--again", nargs="+", metavar="column=value", help=what)
    what = "write a table and a figure of what is done of each plan"
    only.add_argument("--report", type=Path, metavar="FOLDER", help=what)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        UserError: something is wrong with a plan, its CSV or its data.
    """
    from dropkey_core.engine.errors import UserError
    from projects.paper import regimes

    plans = [regimes.read_plan(path) for path in arguments.plans]
    if arguments.results and len(plans) > 1:
        raise UserError(f"--results is for one plan, got {len(plans)}")
    paths = [arguments.results or plan.path.with_suffix(".csv") for plan in plans]
    results = [regimes.Results(path) for path in paths]
    for plan, result in zip(plans, results, strict=True):
        if arguments.list:
            print(regimes.progress(plan, result))
            continue
        trainer, runs = regimes.TRAINERS[plan.trainer](plan), plan.runs()
        if arguments.report:
            rows = list(regimes.finished_runs(trainer, runs, result).values())
            if rows or len(plans) == 1:
                print(regimes.write_report(plan, rows, arguments.report))
        elif not arguments.again:
            regimes.work(trainer, runs, result)
        elif not regimes.repeat(trainer, runs, result, arguments.again):
            raise UserError("not the same numbers: other versions of torch or another kind of CPU?")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a user's error, 130 after Ctrl-C."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments), "interrupted; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
