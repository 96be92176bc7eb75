"""How fast things are, measured side by side.

Contenders take turns, so that whatever else the machine does slows all of them alike, and are
compared by the median of the ratios of neighbouring turns rather than by two separate times.
"""

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dropkey_core.engine.errors import UserError

Step = Callable[[], Any]
MEBIBYTE = 2**20


@dataclass
class Measurement:
    """What one contender needed.

    Args:
        seconds: one time per turn.
        items: what one turn processes: images, or calls.
        peak_memory: bytes in use at the worst moment of a turn, beyond what was in use before it;
            on a GPU all that is allocated. None where the system does not tell.
    """

    items: int
    seconds: list[float] = field(default_factory=list)
    peak_memory: int | None = None

    @property
    def seconds_per_item(self) -> float:
        """Seconds for one item, of the median turn."""
        return statistics.median(self.seconds) / self.items

    @property
    def items_per_second(self) -> float:
        """Items per second, of the median turn."""
        return 1.0 / self.seconds_per_item

    def speed_over(self, other: "Measurement") -> float:
        """Median over the turns of how many times as fast this one was as ``other``."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)


def checked_device(device: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: if it is neither cpu nor cuda, or there is no GPU.
    """
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here")
    return torch.device(device)


def measure(
    steps: Mapping[str, Step],
    items: int,
    repeats: int,
    device: torch.device,
    enough: float = math.inf,
) -> dict[str, Measurement]:
    """Let each step run ``repeats`` times, in turns, after one run that does not count.

    Args:
        steps: by the contender's name.
        items: images, or calls, in a step.
        repeats: turns of each.
        device: where the steps compute.
        enough: seconds after which no further turn begins, once there are three.
    """
    measured = {name: Measurement(items) for name in steps}
    for step in steps.values():
        step()
    for name, step in steps.items():
        measured[name].peak_memory = peak_memory(step, device)
    began = time.perf_counter()
    for turn in range(repeats):
        if turn >= 3 and time.perf_counter() - began > enough:
            break
        for name, step in steps.items():
            measured[name].seconds.append(seconds(step, device))
    return measured


def seconds(step: Step, device: torch.device) -> float:
    """Wall time of one run."""
    synchronise(device)
    began = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(step: Step, device: torch.device) -> int | None:
    """Bytes that one run needs at its worst moment; see ``Measurement``."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # glibc: give back what was freed before
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    except (OSError, AttributeError):
        return None
    before = resident("VmRSS")
    step()
    return max(0, resident("VmHWM") - before)


def resident(field_name: str) -> int:
    """Bytes that Linux tells of this process: ``VmRSS`` now, ``VmHWM`` at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field_name}")


def markdown_table(results: Mapping[str, Mapping[str, Measurement]]) -> str:
    """One row per job and contender; the last column compares with the job's first contender.

    Args:
        results: measurements by job, then by contender.
    """
    rows = [
        "| job | contender | images/s | memory, MiB | speed |",
        "|---|---|---:|---:|---:|",
    ]
    for job, contenders in results.items():
        first = next(iter(contenders.values()))
        for name, result in contenders.items():
            memory = "" if result.peak_memory is None else f"{result.peak_memory / MEBIBYTE:.0f}"
            speed = f"{result.speed_over(first):.2f}x"
            rows.append(f"| {job} | {name} | {result.items_per_second:.2f} | {memory} | {speed} |")
    return "\n".join(rows)


def as_plain_values(results: Mapping[str, Mapping[str, Measurement]]) -> list[dict[str, Any]]:
    """The table's rows with every single time, for a JSON file."""
    return [
        {
            "job": job,
            "contender": name,
            "images_per_second": result.items_per_second,
            "peak_memory_bytes": result.peak_memory,
            "speed_over_first": result.speed_over(next(iter(contenders.values()))),
            "images": result.items,
            "seconds": result.seconds,
        }
        for job, contenders in results.items()
        for name, result in contenders.items()
    ]
