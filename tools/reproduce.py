#!/usr/bin/env python
"""Run what a table of the paper lacks, and report it beside the paper's numbers.

tools/reproduce.py configs/paper/table1.yaml --scale demo
tools/reproduce.py configs/paper/table1.yaml --rows c10_t2t14_dropkey_falling --seeds 0
tools/reproduce.py configs/paper/table1.yaml --list
tools/reproduce.py configs/paper/table6.yaml --commands

Stop it at any time: the same command goes on. The same command in another terminal shares the work.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", metavar="FILE", help="the table's YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every training")
    parser.add_argument("--scale", default="full", metavar="NAME", help="full (default), demo, ...")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ID", help="these rows only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="these only")
    parser.add_argument("--output", type=Path, default=Path("output/tables"), metavar="FOLDER")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="processes of each training")
    parser.add_argument(
        "--overwrite", action="store_true", help="run again what other settings made"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--list", action="store_true", help="show the paper's numbers and what is done"
    )
    only.add_argument("--commands", action="store_true", help="print the command of each row")
    only.add_argument("--report", action="store_true", help="write the reports, run nothing")
    return parser.parse_intermixed_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        UserError: something is wrong, or jobs failed (the others are done).
        TrainingStopped: after Ctrl-C or SIGTERM; the same command goes on.
    """
    from dropkey_core.engine import UserError
    from projects.paper import tables

    chosen = (arguments.rows, arguments.seeds, arguments.overrides)
    plan = tables.Plan(arguments.scale, arguments.output, *map(tuple, chosen))
    table = tables.read_table(arguments.table)
    jobs = tables.plan_jobs(table, plan)
    if arguments.list or arguments.commands:
        for job in jobs:
            if arguments.overrides and job.seed == jobs[0].seed:
                job.settings()  # refuses a wrong override
        listed = tables.listing(table, plan)
        print(tables.commands(table, plan, arguments.num_gpus) if arguments.commands else listed)
        try:
            tables.check_jobs([job for job in jobs if job.record()])
        except UserError as outdated:
            print(f"beware: {outdated.one_line()}", file=sys.stderr)
        return
    tables.check_jobs(jobs, arguments.overwrite and not arguments.report)
    failed = {}
    if not arguments.report:
        failed = tables.run_jobs(
            jobs, arguments.num_gpus, lambda: tables.write_reports(table, plan)
        )
    written = tables.write_reports(table, plan)
    if not arguments.report:
        print(written[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, written)), flush=True)
    for name, reason in failed.items():
        raise UserError(f"{len(failed)} of the jobs failed, first {name}: {reason}")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a user's error, 130 after Ctrl-C."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
