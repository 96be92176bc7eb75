"""From the YAML of a table to its report: what ``tools/reproduce.py`` does."""

from pathlib import Path

from dropkey_core.engine.errors import UserError
from projects.paper.tables.job import Plan, plan_jobs
from projects.paper.tables.listing import commands, listing
from projects.paper.tables.markdown import markdown
from projects.paper.tables.page import page
from projects.paper.tables.reading import read_table
from projects.paper.tables.running import Outcome, begun, check_jobs, run_jobs
from projects.paper.tables.summary import summarise, write_csv
from projects.paper.tables.table import Table

MARKDOWN, PAGE, RAW = "table.md", "table.html", "results.csv"


def reproduce(
    path: str | Path,
    plan: Plan,
    overwrite: bool = False,
    num_gpus: int | None = None,
) -> list[Path]:
    """Run what a table lacks and report it; the reports are renewed after every job.

    Args:
        path: the YAML.
        plan: scale, folder, rows, seeds.
        overwrite: run again what was made with other settings.
        num_gpus: processes of each training, one GPU each.

    Returns:
        the reports: Markdown, HTML, and every number as CSV.

    Raises:
        UserError: a wrong table, outdated results, or failed jobs (when the others are done).
        TrainingStopped: after Ctrl-C or SIGTERM; the same command goes on.
    """
    table = read_table(path)
    jobs = plan_jobs(table, plan)
    check_jobs(jobs, overwrite)

    def renew_reports(so_far: Outcome) -> None:
        write_reports(table, plan, so_far.failed)

    outcome = run_jobs(jobs, num_gpus, renew_reports)
    written = write_reports(table, plan, outcome.failed)
    print(written[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, written)), flush=True)
    outcome.raise_if_failed()
    return written


def report(path: str | Path, plan: Plan) -> list[Path]:
    """Report what is there and run nothing; returns the reports as :func:`reproduce` does.

    Raises:
        UserError: a wrong table or outdated results.
    """
    table = read_table(path)
    check_jobs(plan_jobs(table, plan))
    written = write_reports(table, plan)
    print("\n".join(map(str, written)), flush=True)
    return written


def list_rows(path: str | Path, plan: Plan) -> str:
    """Return the paper's numbers and how far each row is, see ``listing``.

    Raises:
        UserError: a wrong table or outdated results.
    """
    table = read_table(path)
    check_jobs(begun(plan_jobs(table, plan)))
    return listing(table, plan)


def list_commands(path: str | Path, plan: Plan, num_gpus: int | None = None) -> str:
    """Return the command behind each row, see ``commands``.

    Raises:
        UserError: a wrong table or outdated results.
    """
    table = read_table(path)
    check_jobs(begun(plan_jobs(table, plan)))
    return commands(table, plan, num_gpus)


def write_reports(table: Table, plan: Plan, failed: dict[str, str] | None = None) -> list[Path]:
    """Write all reports of a table, with the numbers that are there.

    Args:
        table: whose rows.
        plan: which of them, where.
        failed: why jobs failed, by name.

    Raises:
        UserError: the folder cannot be written to, or a run lacks a metric.
    """
    folder = plan.folder(table)
    rows = summarise(table, plan, failed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKDOWN).write_text(markdown(table, plan, rows), encoding="utf-8")
        (folder / PAGE).write_text(page(table, plan, rows), encoding="utf-8")
        write_csv(folder / RAW, table, plan)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return [folder / name for name in (MARKDOWN, PAGE, RAW)]
