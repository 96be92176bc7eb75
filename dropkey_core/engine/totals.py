"""Losses whose normaliser is a count over the whole batch, whichever process holds which part."""

import torch.distributed as dist
from torch import Tensor

from dropkey_core.engine.samplers import rank_and_world_size


def total_over_processes(amount: Tensor) -> Tensor:
    """Return the sum of ``amount`` over all processes, in every one of them; no gradient flows.

    Args:
        amount: any shape, the same in each process.
    """
    total = amount.detach().clone()
    if rank_and_world_size()[1] > 1:
        dist.all_reduce(total)
    return total


def per_total(part: Tensor, total: Tensor) -> Tensor:
    """Return ``part / total`` times the number of processes.

    DistributedDataParallel takes the mean of the gradients of all processes. The mean of this over
    the processes is the sum of their parts divided by the total: what one process with the whole
    batch has, however unevenly what is counted lies.

    Args:
        part: this process's part of a sum.
        total: what the whole sum is divided by, see ``total_over_processes``.
    """
    return rank_and_world_size()[1] * part / total
