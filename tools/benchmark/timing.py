"""Benchmark timer: seconds and peak memory of contenders that take turns.

Whatever else the machine does slows all contenders of a turn alike. So they are compared by the
median of the ratios of neighbouring turns rather than by two separate times.
"""

import ctypes
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], Any]
CPU = torch.device("cpu")
MEBIBYTE = 2**20


@dataclass
class Measurement:
    """What one contender needed.

    Args:
        items: what one turn processes: images, calls, rows.
        seconds: one time per turn.
        peak_memory: bytes in use at the worst moment of a turn, beyond what was in use before it;
            on a GPU all that is allocated. None where the system does not tell.
        result: what the first run returned.
        worst_error: of what was computed, where that is asked for.
    """

    items: int
    seconds: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    result: Any = None
    worst_error: float | None = None

    @property
    def seconds_per_item(self) -> float:
        """Seconds for one item, of the median turn."""
        return statistics.median(self.seconds) / self.items

    @property
    def memory_text(self) -> str:
        """Peak memory in MiB; empty if it is not known."""
        return "" if self.peak_memory is None else f"{self.peak_memory / MEBIBYTE:.0f}"

    def speed_over(self, other: "Measurement") -> float:
        """Median over the turns of how many times as fast this one was as ``other``."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)


# Measurements by job, then by contender; others are compared with the first contender of a job.
Results = dict[str, dict[str, Measurement]]


def measure(
    steps: Mapping[str, Step], items: int, repeats: int, device: torch.device = CPU
) -> dict[str, Measurement]:
    """Let each step run ``repeats`` times, in turns, after two runs that do not count.

    Args:
        steps: by the contender's name. The first run of each warms up and gives ``result``, the
            second gives ``peak_memory``.
        items: images, calls or rows in a step.
        repeats: turns of each.
        device: where the steps compute.
    """
    measured = {name: Measurement(items, result=step()) for name, step in steps.items()}
    for name, step in steps.items():
        measured[name].peak_memory = peak_memory(step, device)
    for _ in range(repeats):
        for name, step in steps.items():
            measured[name].seconds.append(seconds(step, device))
    return measured


def seconds(step: Step, device: torch.device) -> float:
    """Wall time of one run, with what a GPU still computes when it returns."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    step()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


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
    (kibibytes,) = re.findall(rf"{field_name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(kibibytes)


@contextmanager
def busy_cores(per_core: int) -> Iterator[int]:
    """Let ``per_core`` processes spin on each core meanwhile; yields how many there are."""
    count = per_core * (os.cpu_count() or 1)
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield count
    finally:
        for process in processes:
            process.kill()
            process.wait()
