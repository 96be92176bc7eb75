"""Benchmark command line: the common options, and tables in Markdown."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timing import Results

from dropkey_core.engine.command import exit_code
from dropkey_core.engine.files.atomic_write import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of ``--threads`` and ``--repeats``; a benchmark adds its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="on the CPU")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="turns of each")
    return parser


def run_benchmark(
    parser: argparse.ArgumentParser,
    benchmark: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None,
) -> int:
    """Run a benchmark, which prints what it measured, as a command; return the exit code.

    Args:
        parser: from ``argument_parser``.
        benchmark: gets the arguments that were parsed.
        argv: the command line; None: that of the process.
    """
    arguments = parser.parse_intermixed_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return exit_code(lambda: benchmark(arguments))


def positive(text: str) -> int:
    """Read a whole number of at least 1 from a command line."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def device(text: str) -> torch.device:
    """Read ``cpu`` or ``cuda`` from a command line."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no GPU here")
    return torch.device(text)


def picture(text: str) -> Path:
    """Read the name of a picture to be drawn from a command line."""
    if not text.endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"{text} must end in one of {', '.join(PICTURES)}")
    return Path(text)


def save(path: Path, figure: "Figure") -> None:
    """Write a figure, in a new folder if need be; a UserError where the system refuses."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], num_text_columns: int = 1
) -> str:
    """Return a table in Markdown; all columns but the first ``num_text_columns`` are numbers."""
    rule = "---|" * num_text_columns + "---:|" * (len(head) - num_text_columns)
    lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *lines])


def speed_table(results: Results) -> str:
    """One row per job and contender; the last column compares with the job's first contender."""
    rows = []
    for job, contenders in results.items():
        first = next(iter(contenders.values()))
        for name, measured in contenders.items():
            per_second = f"{1 / measured.seconds_per_item:,.2f}"
            speed = f"{measured.speed_over(first):.2f}x"
            rows.append((job, name, per_second, measured.memory_text, speed))
    head = ["job", "contender", "per second", "memory, MiB", "speed"]
    return markdown_table(head, rows, num_text_columns=2)
