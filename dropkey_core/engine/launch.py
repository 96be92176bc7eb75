"""Where a run computes: devices, processes and precision, by Lightning Fabric."""

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

from dropkey_core.engine.distributed import Processes, started_from_outside
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.signals import TrainingStopped

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def launch(train: DictConfig, processes: Processes) -> "tuple[Fabric, JointEnd]":
    """Start the processes of a run; each returns from here knowing its rank and device.

    Args:
        train: the ``train`` section: ``device``, ``amp.enabled`` and ``ddp`` are read.
        processes: how many, see :func:`check_launch`.

    Returns:
        Lightning's handle on the processes, and what lets them end together.

    Raises:
        UserError: if the processes cannot meet.
    """
    # Imported here: it takes seconds, and a mistake in the config should not wait for it.
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.strategies import DDPStrategy

    quieten_lightning()
    num_gpus, num_machines = processes.counted()
    several = num_gpus * num_machines > 1
    # detectron2's default too. Broadcasting would also need evaluations of equal length.
    options = {"broadcast_buffers": False, **train.ddp}
    ddp = DDPStrategy(timeout=timedelta(seconds=processes.timeout), **options)
    fabric = Fabric(
        accelerator=train.device,
        devices=num_gpus,
        num_nodes=num_machines,
        strategy=ddp if several else "auto",
        plugins=[
            *([mixed_precision(train.device)] if train.amp.enabled else []),
            # Else Lightning waits for tasks of SLURM wherever it finds its variables.
            *([] if started_from_outside() else [LightningEnvironment()]),
        ],
    )
    joint_end = JointEnd(fabric.strategy.launcher)
    if several:
        joint_end.watch()
    try:
        fabric.launch()
    except torch.distributed.DistError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the processes of this run did not find each other: {reason}") from error
    return fabric, joint_end


def check_launch(train: DictConfig, processes: Processes) -> None:
    """Compare what is asked for with what there is, and let the processes know where to meet.

    Raises:
        UserError: naming the setting or the option.
    """
    processes.announce()
    check_devices(train, processes.counted()[0])


def check_devices(train: DictConfig, num_gpus: int) -> None:
    """Compare what the config asks for with what there is."""
    if train.device not in ("cuda", "cpu"):
        raise UserError(f"train.device must be cuda or cpu, got {train.device!r}")
    if train.amp.enabled and train.device != "cuda":
        raise UserError("train.amp.enabled needs train.device=cuda: set train.amp.enabled=false")
    available = torch.cuda.device_count()
    if train.device == "cuda" and available == 0:
        raise UserError("train.device is cuda and this machine has no GPU: use train.device=cpu")
    if train.device == "cuda" and num_gpus > available:
        raise UserError(f"--num-gpus {num_gpus}: this machine has {available}")


def quieten_lightning() -> None:
    """Keep Lightning's notices (devices, seeds, process groups, tips) out of the user's sight."""
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*lightning.*")


POLL_S = 0.2
# What a process waits with its own error before it tells it, and ends the others that it started.
USER_ERROR_S = 1.0  # most mistakes are the same in every process: the first one tells them
OTHER_ERROR_S = 5.0  # likely the consequence of another process's


class JointEnd:
    """Watches over the processes on this machine that belong with this one.

    Args:
        launcher: Lightning's; it keeps the processes that it has started in ``procs``.
    """

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self._is_told = False  # this process tells an error of its own
        self._parent = os.getppid()

    @property
    def _others(self) -> list["Popen[bytes]"]:
        return list(getattr(self._launcher, "procs", []))

    def watch(self) -> None:
        """Begin to watch, in a thread: the main one may wait for a dead process for long."""
        threading.Thread(target=self._watch, name="joint-end", daemon=True).start()

    @contextmanager
    def guard(self, fabric: "Fabric") -> Iterator[None]:
        """Run a block; if it fails, end the other processes here and say which one failed.

        Raises:
            UserError: the block's, with the rank unless it is 0.
        """
        try:
            yield
        except (TrainingStopped, KeyboardInterrupt):
            raise  # asked for, and in every process
        except Exception as error:
            if fabric.world_size == 1:
                raise
            self._let_others_speak(isinstance(error, UserError), fabric.global_rank)
            self._end_others()
            name = f"rank {fabric.global_rank} of {fabric.world_size}"
            if isinstance(error, UserError) and fabric.global_rank:
                raise UserError(f"{name}: {error.one_line()}") from error
            if not isinstance(error, UserError):
                print(f"{name} fails; if another one has failed, see there", file=sys.stderr)
            raise

    def _let_others_speak(self, is_user_error: bool, rank: int) -> None:
        if not is_user_error:
            time.sleep(OTHER_ERROR_S * (1 if rank == 0 else 2))
        elif rank:
            time.sleep(USER_ERROR_S)

    def _end_others(self) -> None:
        self._is_told = True
        for process in self._others:
            process.kill()

    def _watch(self) -> None:
        was_launched = int(os.environ.get("LOCAL_RANK", 0)) > 0
        while not self._is_told:
            time.sleep(POLL_S)
            codes = {rank: process.poll() for rank, process in enumerate(self._others, 1)}
            failed = [(rank, code) for rank, code in codes.items() if code]
            if failed and not self._is_told:
                self._end(*failed[0])
            if was_launched and os.getppid() != self._parent:
                os._exit(1)  # nobody is left to tell it to

    def _end(self, local_rank: int, code: int) -> None:
        """End everything here: the process of ``local_rank`` has ended with ``code``."""
        self._end_others()
        if code < 0:  # it had no time to say anything
            name = signal.Signals(-code).name
            print(f"error: process {local_rank} was ended by {name}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 - code if code < 0 else code)


# Below this a loss of 1 is no normal float16 any more: it is not the scale that is too large.
LEAST_SCALE = 2.0**-14


def mixed_precision(device: str) -> Any:
    """Return Lightning's plugin for ``device``, which leaves the model's input as it is."""
    from lightning.fabric.plugins import MixedPrecision

    class MixedPrecisionForward(MixedPrecision):
        """float16 in the forward; Lightning's own would also round the true boxes to float16."""

        def convert_input(self, data: Any) -> Any:
            return data

    return MixedPrecisionForward(precision="16-mixed", device=device)


def measure_overflow(
    precision: Any, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    """Return ``loss_scale`` and ``skipped_steps`` since the run began; nothing without a scaler.

    Args:
        precision: Lightning's plugin.
        optimizer: counts the steps that it did, and keeps the count in its state.
        step: steps of the run.

    Raises:
        UserError: if the scale has fallen so low that gradients overflow whatever it is.
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
