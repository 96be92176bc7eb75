"""Launching by Lightning Fabric: devices, processes, and a watchdog."""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from subprocess import Popen
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from dropkey_core.engine.distributed import Processes, is_first_process, started_by
from dropkey_core.engine.errors import UserError, first_line
from dropkey_core.engine.precision import check_precision, precision_of
from dropkey_core.engine.signals import TrainingStopped

if TYPE_CHECKING:
    from lightning.fabric import Fabric

DEVICES = ("cuda", "mps", "cpu")  # the best first
POLL_S = 0.2
# What a process waits with its own error before it tells it, and ends the others that it started.
USER_ERROR_S = 1.0  # most mistakes are the same in every process: the first one tells them
OTHER_ERROR_S = 5.0  # likely the consequence of another process's


def choose_device(train: DictConfig, processes: Processes) -> None:
    """Put into ``train.device`` the named device, or where it is not there the best that is.

    The same YAML then runs on any machine; another device is told in one line.

    Raises:
        UserError: no name of a device, one that is not there with ``strict_device``, fewer GPUs
            than processes, or a dtype of ``train.amp`` that the device cannot do.
    """
    named, num_processes = train.device, processes.counted()[0]
    if named not in DEVICES:
        raise UserError(f"train.device must be cuda, mps or cpu, got {named!r}")
    train.device = device = available_device(named)
    if device != named:
        told = f"train.device is {named} and this machine has none"
        if processes.strict_device or num_processes > 1:
            raise UserError(f"{told}: use train.device={device}")
        if is_first_process():
            print(f"warning: {told}: {device} takes its place", flush=True)
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device, num_processes)
    if num_processes > available:
        raise UserError(f"--num-gpus {num_processes}: this machine has {available}")
    check_precision(train)


def available_device(named: str) -> str:
    """Return ``named`` where it is there, else the best device that is: cuda, mps or cpu."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["cpu"] = True
    return named if there[named] else next(name for name in DEVICES if there[name])


def launch(train: DictConfig, processes: Processes) -> "Fabric":
    """Start the processes of a run; each returns from here knowing its rank and device.

    Args:
        train: the ``train`` section: ``device``, ``amp`` and ``ddp`` are read.
        processes: how many; announced before, and ``train.device`` chosen.

    Raises:
        UserError: the processes cannot meet, or are others than torchrun or SLURM has started.
    """
    # Imported here: it takes seconds, and a mistake in the config should not wait for it.
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):  # devices, seeds, tips
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*lightning.*")
    num_gpus, num_machines = processes.counted()
    several = num_gpus * num_machines > 1
    # detectron2's default too. Broadcasting would also need evaluations of equal length.
    options = {"broadcast_buffers": False, **train.ddp}
    ddp = DDPStrategy(timeout=timedelta(seconds=processes.timeout), **options)
    # Without this one Lightning waits for tasks of SLURM wherever it finds its variables.
    plugins: list[Any] = [] if started_by() else [LightningEnvironment()]
    try:
        fabric = Fabric(
            accelerator=train.device,
            devices=num_gpus,
            num_nodes=num_machines,
            strategy=ddp if several else "auto",
            plugins=[precision_of(train), *plugins],
        )
        if several:
            watch(launched_by(fabric))
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the processes of this run cannot meet: {first_line(error)}") from error
    return fabric


def watch(launched: "list[Popen[bytes]]") -> None:
    """Watchdog: a thread that ends this process when one that belongs with it has failed.

    The main thread may wait long for a dead process.

    Args:
        launched: the processes that this one has launched, or is going to.
    """
    parent = os.getppid() if int(os.environ.get("LOCAL_RANK", 0)) else None

    def look() -> None:
        while parent in (None, os.getppid()):
            time.sleep(POLL_S)
            for rank, process in enumerate(list(launched), 1):
                if code := process.poll():
                    end_launched(launched)
                    end_as(rank, code)
        os._exit(1)  # nobody is left to tell it to

    threading.Thread(target=look, name="watchdog", daemon=True).start()


def end_as(local_rank: int, code: int) -> None:
    """End this process as that of ``local_rank`` has ended, with ``code``."""
    if code < 0:  # it had no time to say anything
        name = signal.Signals(-code).name
        print(f"error: process {local_rank} was ended by {name}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 - code if code < 0 else code)


def launched_by(fabric: "Fabric") -> "list[Popen[bytes]]":
    """Return the processes that this one has launched; Fabric's launcher adds to this list."""
    launcher: Any = fabric.strategy.launcher
    return launcher.procs


def end_launched(launched: "list[Popen[bytes]]") -> None:
    """Kill the processes that this one has launched, and forget them: they have not failed."""
    while launched:
        launched.pop().kill()


@contextmanager
def ending_together(fabric: "Fabric") -> Iterator[None]:
    """Run a block; if it fails, end the other processes here and say which one failed.

    Those that wait for one that fails do so soon after: the connection is gone. They know nothing
    of the cause, so they leave the one that does the time to tell it, and to end them. Without an
    error the connection is closed, or its threads may abort a process that exits beside them.

    Raises:
        UserError: the block's, with the rank unless it is 0.
    """
    try:
        yield
    except TrainingStopped:  # asked for, and in every process
        disconnect()
        raise
    except Exception as error:
        if fabric.world_size == 1:
            raise
        rank, name = fabric.global_rank, f"rank {fabric.global_rank} of {fabric.world_size}"
        if not isinstance(error, UserError):
            time.sleep(OTHER_ERROR_S * (2 if rank else 1))
            print(f"{name} fails; if another one has failed, see there", file=sys.stderr)
        elif rank:
            time.sleep(USER_ERROR_S)
            raise UserError(f"{name}: {error.one_line()}") from error
        end_launched(launched_by(fabric))
        raise
    else:
        disconnect()


def disconnect() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
