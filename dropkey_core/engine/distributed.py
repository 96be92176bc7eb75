"""Distributed: how many processes a run has, where they meet, and what they exchange."""

import os
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from dropkey_core.engine.errors import UserError

T = TypeVar("T")

TIMEOUT_S = 600.0
URL_FORM = "tcp://HOST:PORT of machine 0, for instance tcp://10.0.0.1:29500"
MEETING = {  # variables that say where the processes of several machines meet, and our options
    "NODE_RANK": "--machine-rank: 0 on the first machine, then 1 and so on",
    "MASTER_ADDR": f"--dist-url {URL_FORM}",
}


@dataclass(frozen=True)
class Processes:
    """What the command line says about processes.

    Args:
        num_gpus: processes on each machine, one GPU each (on the CPU with ``train.device=cpu``).
            None: as many as torchrun or SLURM has started, else one.
        num_machines: machines that run this same command. None: likewise.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes of several machines meet, ``tcp://HOST:PORT`` of machine 0.
        timeout: seconds that a process waits for another one before it gives up.
        strict_device: refuse a ``train.device`` that is not there rather than take another.
    """

    num_gpus: int | None = None
    num_machines: int | None = None
    machine_rank: int | None = None
    dist_url: str | None = None
    timeout: float = TIMEOUT_S
    strict_device: bool = False

    def counted(self) -> tuple[int, int]:
        """Return the number of processes on each machine and that of machines."""
        per_machine, num_machines = 1, 1
        if started_by() == "torchrun":
            per_machine = int(os.environ["LOCAL_WORLD_SIZE"])
            num_machines = int(os.environ["WORLD_SIZE"]) // per_machine
        elif started_by() == "SLURM":
            per_machine = int(os.environ.get("SLURM_NTASKS_PER_NODE", 1))
            num_machines = int(os.environ.get("SLURM_NNODES", 1))
        return self.num_gpus or per_machine, self.num_machines or num_machines

    def announce(self) -> None:
        """Check the options, and set the variables by which torch's processes find each other.

        Raises:
            UserError: naming the option.
        """
        for option, number in (("gpus", self.num_gpus), ("machines", self.num_machines)):
            if number is not None and number < 1:
                raise UserError(f"--num-{option} must be at least 1, got {number}")
        if not self.timeout > 0:
            raise UserError(f"--dist-timeout must be above 0 seconds, got {self.timeout:g}")
        num_machines = self.counted()[1]
        if not 0 <= (self.machine_rank or 0) < num_machines:
            raise UserError(
                f"--machine-rank must be in 0..{num_machines - 1} with --num-machines "
                f"{num_machines}, got {self.machine_rank}"
            )
        meeting = self.meeting()
        if (by := started_by()) and meeting:
            raise UserError(f"--machine-rank, --dist-url: {by} sees to that; leave it out")
        for name, option in MEETING.items():
            if num_machines > 1 and not by and name not in {*os.environ, *meeting}:
                raise UserError(f"--num-machines {num_machines} needs {option}")
        os.environ.update(meeting)

    def meeting(self) -> dict[str, str]:
        """Return what is given of where processes meet, as variables of torch and Lightning."""
        given = {} if self.machine_rank is None else {"NODE_RANK": str(self.machine_rank)}
        if self.dist_url is None:
            return given
        form = re.fullmatch(r"tcp://([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", self.dist_url)
        if not form or not 0 < int(form[2]) < 2**16:
            raise UserError(f"--dist-url must be {URL_FORM}, got {self.dist_url!r}")
        return {**given, "MASTER_ADDR": form[1].strip("[]"), "MASTER_PORT": form[2]}


def started_by() -> str:
    """Return what has started the processes: ``torchrun``, ``SLURM`` (its srun) or nothing."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # Lightning takes jobs of these names for a shell in which the user starts things by hand.
    by_hand = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM" if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and not by_hand else ""


def is_first_process() -> bool:
    """Return whether this process is rank 0, or will be once it has launched the others."""
    ranks = {"torchrun": ("RANK",), "SLURM": ("SLURM_PROCID",), "": ("NODE_RANK", "LOCAL_RANK")}
    return all(int(os.environ.get(name, 0)) == 0 for name in ranks[started_by()])


def total_over_processes(amount: Tensor) -> Tensor:
    """Return the sum of ``amount``, of any shape, over all processes; no gradient flows."""
    total = amount.detach().clone()
    if rank_and_world_size()[1] > 1:
        dist.all_reduce(total)
    return total


def per_total(part: Tensor, total: Tensor) -> Tensor:
    """Return ``part / total`` times the number of processes.

    DistributedDataParallel takes the mean of the processes' gradients. The mean of this is the sum
    of their parts divided by the total: what one process with the whole batch has.

    Args:
        part: this process's part of a sum.
        total: what the whole sum is divided by, see ``total_over_processes``.
    """
    return rank_and_world_size()[1] * part / total


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes, (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_objects(value: T) -> list[T]:
    """Return the ``value`` of every process, in order of rank, to every process."""
    gathered: list[Any] = [value] * rank_and_world_size()[1]
    if len(gathered) > 1:
        dist.all_gather_object(gathered, value)
    return gathered
