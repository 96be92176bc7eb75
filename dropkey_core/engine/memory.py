"""Memory: what a forward keeps for its backward, how much is free, and the most that was used."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CGROUP = Path("/sys/fs/cgroup")  # of a container, or of a job of SLURM's


def bytes_kept(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Return the bytes that ``forward`` keeps for its backward, the model's parameters apart.

    Each storage counts once. What is there only for a moment does not count.

    Args:
        model: whose buffers stay as they are, whatever the forward does to them.
        forward: calls the model.
    """
    ours = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        with suppress(RuntimeError, NotImplementedError):  # a tensor without storage
            storage = value.untyped_storage()
            if storage.data_ptr() not in ours:
                kept[storage.data_ptr()] = storage.nbytes()
        return value

    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            outputs = forward()  # alive to here: what is freed could be counted once for two
    finally:
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    del outputs
    return sum(kept.values())


def bytes_free(device: torch.device) -> int | None:
    """Return what a process may still take on a device; None where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [free for free in (_free_in_machine(), _free_in_group()) if free is not None]
    return min(known, default=None)


def _free_in_machine() -> int | None:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 2**10
    return None


def _free_in_group() -> int | None:
    """What the group of processes that this one belongs to may still take (cgroup 2)."""
    with suppress(OSError, ValueError, KeyError):
        limit = int((CGROUP / "memory.max").read_text())  # "max" for none
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        return limit - used + int(dict(line.split() for line in lines)["inactive_file"])
    return None


def peak_mb() -> float:
    """Return the most memory used so far in MiB: of the GPU if one is used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**10 if sys.platform != "darwin" else peak / 2**20
