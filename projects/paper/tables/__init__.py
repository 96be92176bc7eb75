"""The paper's tables as data: read, run, and reported beside the paper's numbers."""

from projects.paper.tables.job import Plan, plan_jobs
from projects.paper.tables.measurement import aligned, occluded
from projects.paper.tables.reading import read_table
from projects.paper.tables.report import commands, listing, write_reports
from projects.paper.tables.running import check_jobs, run_jobs

__all__ = [
    "Plan",
    "aligned",
    "check_jobs",
    "commands",
    "listing",
    "occluded",
    "plan_jobs",
    "read_table",
    "run_jobs",
    "write_reports",
]
