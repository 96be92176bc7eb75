"""The paper's tables as data: read, run, and reported beside the paper's numbers."""

from projects.paper.tables.job import Plan
from projects.paper.tables.measurement import aligned, occluded
from projects.paper.tables.reading import read_table
from projects.paper.tables.reproduction import list_commands, list_rows, report, reproduce
from projects.paper.tables.table import Table

__all__ = [
    "Plan",
    "Table",
    "aligned",
    "list_commands",
    "list_rows",
    "occluded",
    "read_table",
    "report",
    "reproduce",
]
