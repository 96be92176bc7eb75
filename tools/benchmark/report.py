"""Benchmark command line: the common options, Markdown tables, and the JSON file of all times."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from timing import Results

from dropkey_core.engine.command import exit_code
from dropkey_core.engine.files.atomic_write import writing

PICTURES = (".png", ".svg", ".pdf")


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of ``--threads``, ``--repeats`` and ``--json``; a benchmark adds its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="on the CPU")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="turns of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time there")
    return parser


def run_benchmark(
    parser: argparse.ArgumentParser,
    benchmark: Callable[[argparse.Namespace], Results],
    argv: Sequence[str] | None,
) -> int:
    """Run a benchmark as a command.

    Args:
        parser: from ``argument_parser``.
        benchmark: measures, prints and returns what it measured.
        argv: the command line; None: that of the process.

    Returns:
        the exit code: 0, or 2 for a user's error
    """
    arguments = parser.parse_intermixed_args(argv)

    def command() -> None:
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        results = benchmark(arguments)
        if arguments.json:
            text = json.dumps(as_plain_values(results), indent=1)
            save(arguments.json, lambda path: path.write_text(text))

    return exit_code(command)


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


def save(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` write a file, in a new folder if need be.

    Raises:
        UserError: the system refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)


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


def as_plain_values(results: Results) -> list[dict[str, Any]]:
    """One dictionary per job and contender, with every single time, for a JSON file."""
    return [
        {
            "job": job,
            "contender": name,
            "items": measured.items,
            "seconds": measured.seconds,
            "seconds_per_item": measured.seconds_per_item,
            "speed_over_first": measured.speed_over(next(iter(contenders.values()))),
            "peak_memory_bytes": measured.peak_memory,
            "worst_error": measured.worst_error,
        }
        for job, contenders in results.items()
        for name, measured in contenders.items()
    ]
