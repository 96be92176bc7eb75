"""Launching by Lightning Fabric: devices, processes, mixed precision, and a watchdog.

In mixed precision the forward is float16, and a scaler multiplies the loss so that small gradients
do not vanish. Where one overflows it leaves out the step, which counts all the same, and halves
the scale; after 2,000 good steps in a row it doubles it.
"""

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
from omegaconf import DictConfig

from dropkey_core.engine.distributed import Processes, started_by
from dropkey_core.engine.errors import UserError, first_line
from dropkey_core.engine.signals import TrainingStopped

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.plugins import Precision

POLL_S = 0.2
# What a process waits with its own error before it tells it, and ends the others that it started.
USER_ERROR_S = 1.0  # most mistakes are the same in every process: the first one tells them
OTHER_ERROR_S = 5.0  # likely the consequence of another process's

# Below this a loss of 1 is no normal float16 any more: it is not the scale that is too large.
LEAST_SCALE = 2.0**-14


def check_devices(train: DictConfig, num_gpus: int) -> None:
    """Raise UserError if the config asks for what there is not."""
    is_cuda, available = train.device == "cuda", torch.cuda.device_count()
    if not is_cuda and train.device != "cpu":
        raise UserError(f"train.device must be cuda or cpu, got {train.device!r}")
    if train.amp.enabled and not is_cuda:
        raise UserError("train.amp.enabled needs train.device=cuda: set train.amp.enabled=false")
    if is_cuda and available == 0:
        raise UserError("train.device is cuda and this machine has no GPU: use train.device=cpu")
    if is_cuda and num_gpus > available:
        raise UserError(f"--num-gpus {num_gpus}: this machine has {available}")


def launch(train: DictConfig, processes: Processes) -> "Fabric":
    """Start the processes of a run; each returns from here knowing its rank and device.

    Args:
        train: the ``train`` section: ``device``, ``amp`` and ``ddp`` are read.
        processes: how many; announced before, and ``train.device`` checked.

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


def precision_of(train: DictConfig) -> "Precision":
    """Return Lightning's plugin for ``train.amp``: casts the forward, scales the loss."""
    from lightning.fabric.plugins import MixedPrecision, Precision

    if not train.amp.enabled:
        return Precision()
    plugin: Any = MixedPrecision("16-mixed", device=train.device)
    plugin.convert_input = lambda data: data  # its own would also round the true boxes
    return plugin


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
    of the cause, so they leave the one that does the time to tell it, and to end them.

    Raises:
        UserError: the block's, with the rank unless it is 0.
    """
    try:
        yield
    except TrainingStopped:
        raise  # asked for, and in every process
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


def measure_overflow(
    precision: Any, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    """Return ``loss_scale`` and ``skipped_steps`` since the run began; nothing without a scaler.

    Args:
        precision: Lightning's plugin.
        optimizer: keeps in its state how many steps it did.
        step: steps of the run.

    Raises:
        UserError: the scale has fallen so low that gradients overflow whatever it is.
    """
    scaler = getattr(precision, "scaler", None)
    if scaler is None:
        return {}
    scale = float(scaler.get_scale())
    if scale < LEAST_SCALE:
        raise UserError(
            f"step {step}: in mixed precision no gradients are finite, with the loss scaled by "
            f"{scale:.3g} only; try train.amp.enabled=false or a lower optimizer.lr"
        )
    done = max((float(state["step"]) for state in optimizer.state.values()), default=0.0)
    return {"loss_scale": scale, "skipped_steps": step - done}
