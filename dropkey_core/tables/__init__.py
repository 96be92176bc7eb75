"""The paper's tables as data: read, run, and reported beside the paper's numbers."""

from dropkey_core.tables.job import Plan
from dropkey_core.tables.measurement import aligned, occluded
from dropkey_core.tables.reading import read_table
from dropkey_core.tables.reproduction import list_commands, list_rows, report, reproduce
from dropkey_core.tables.table import Table

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
