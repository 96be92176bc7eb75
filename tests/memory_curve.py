#!/usr/bin/env python
"""Whether the memory of a training grows: sample it from outside, fit a line, draw the curve.

tests/memory_curve.py measure --config projects/detr/demo.yaml --output detr.csv train.max_iter=2000
tests/memory_curve.py draw detr.csv qpic.csv --output docs/memory.png

Linux only: what a process holds is read from /proc. Not a test that pytest collects, for it takes
minutes.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 500  # steps whose growth is no leak: pools fill, the first evaluation is done
COLUMNS = ("step", "seconds", "resident_mb", "job_mb")


def main(argv: list[str] | None = None) -> int:
    """Measure one training, or draw what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="train, and write the curve as a CSV")
    measuring.add_argument("--config", required=True)
    measuring.add_argument("--output", required=True, type=Path, metavar="CSV")
    measuring.add_argument("--period", type=float, default=1.0, metavar="SECONDS")
    measuring.add_argument("overrides", nargs="*", metavar="key=value")
    drawing = commands.add_parser("draw", help="draw curves, one panel for all")
    drawing.add_argument("curves", nargs="+", type=Path, metavar="CSV")
    drawing.add_argument("--output", required=True, type=Path, metavar="PNG")
    arguments = parser.parse_intermixed_args(argv) if argv else parser.parse_args()
    if arguments.command == "measure":
        measure(arguments.config, arguments.overrides, arguments.output, arguments.period)
        tell(arguments.output)
    else:
        draw(arguments.curves, arguments.output)
    return 0


def measure(config: str, overrides: list[str], output: Path, period: float) -> None:
    """Train in a process of its own and write a row every ``period`` seconds."""
    with tempfile.TemporaryDirectory() as folder, output.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        tool = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config", config]
        settings = [*overrides, f"train.output_dir={folder}", "train.log_period=10"]
        began = time.monotonic()
        with subprocess.Popen([*tool, *settings], stdout=subprocess.DEVNULL) as training:
            while training.poll() is None:
                if step := finished_steps(Path(folder) / "metrics.csv"):
                    seconds = round(time.monotonic() - began, 1)
                    try:
                        resident = resident_mb(training.pid)
                        workers = sum(private_mb(worker) for worker in descendants(training.pid))
                    except (FileNotFoundError, ProcessLookupError):
                        continue  # a worker has ended
                    rows.writerow((step, seconds, round(resident, 1), round(resident + workers, 1)))
                    file.flush()
                time.sleep(period)
        if training.returncode:
            raise SystemExit(f"the training ended with code {training.returncode}")


def finished_steps(log: Path) -> int:
    """Return the last step that ``metrics.csv`` tells of, 0 before the first."""
    lines = log.read_text().splitlines() if log.exists() else []
    step = lines[-1].split(",")[0] if lines else ""
    return int(step) if step.isdigit() else 0


def descendants(process: int) -> Iterator[int]:
    """Yield the numbers of all processes that one started, directly or not."""
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in children.read_text().split():
            yield int(child)
            yield from descendants(int(child))


def resident_mb(process: int) -> float:
    """Return what a process holds in memory now, libraries and shared pages included."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def private_mb(process: int) -> float:
    """Return what only this process holds; forked workers share the rest with the training."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 2**10


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a curve."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in COLUMNS}


def growth(curve: dict[str, np.ndarray], name: str) -> float:
    """Return the slope of a column after the warm-up, in MB per 1,000 steps: least squares."""
    warm = curve["step"] >= WARM_UP
    slope, _ = np.polyfit(curve["step"][warm], curve[name][warm], 1)
    return float(1000 * slope)


def tell(path: Path) -> None:
    """Print what a curve says, in one line."""
    curve = read(path)
    last = curve["step"] >= curve["step"][-1] - 100
    print(
        f"{path.stem:<24} {curve['step'][-1]:.0f} steps  "
        f"{curve['resident_mb'][last].mean():.0f} MB at the end  "
        f"{growth(curve, 'resident_mb'):+.2f} MB per 1,000 steps "
        f"(with workers {growth(curve, 'job_mb'):+.2f})"
    )


def draw(paths: list[Path], output: Path) -> None:
    """Draw memory in use over steps, that of workers included."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
    for number, path in enumerate(paths):
        tell(path)
        curve = read(path)
        label = f"{path.stem.replace('_', ' ')}  ({growth(curve, 'job_mb'):+.1f})"
        axes.plot(curve["step"], curve["job_mb"], color=f"C{number}", label=label, linewidth=1)
    axes.axvline(WARM_UP, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="training steps", ylabel="MB in use", ylim=(0, None), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        title=f"demo (MB per 1,000 steps after step {WARM_UP})",
        frameon=False, fontsize=8, title_fontsize=8, ncols=2,
    )  # fmt: skip
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
