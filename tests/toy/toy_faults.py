"""Things that go wrong in one process of several, for tests/distributed_check.py."""

import os
import shutil
import signal
import time
from pathlib import Path

from toy_experiment import ToyEvaluator, ToyMapper, ToyModel

from dropkey_core.engine import UserError
from dropkey_core.engine.distributed import rank_and_world_size


def is_due(rank):
    """Whether this process is ``rank``; if so, note the time."""
    if rank_and_world_size()[0] != rank:
        return False
    Path("fault_time").write_text(str(time.time()))
    return True


class FaultyModel(ToyModel):
    """Fails in the forward of step 3 in process ``rank``."""

    def __init__(self, fault: str, rank: int, pause: float = 0.0, **settings) -> None:
        super().__init__(**settings)
        self.fault = fault
        self.rank = rank
        self.pause = pause
        self.steps = 0

    def forward(self, batch):
        losses = super().forward(batch)
        if not self.training:
            return losses
        time.sleep(self.pause)
        self.steps += 1
        if self.steps == 3 and self.fault and is_due(self.rank):
            if self.fault == "bug":
                raise RuntimeError("a mistake in the code")
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "loss":
                losses["loss_l1"] = losses["loss_l1"] * float("nan")
            if self.fault == "folder":  # nothing can be saved in a file
                shutil.rmtree("output")
                Path("output").write_text("")
        return losses


class FaultyMapper(ToyMapper):
    """Cannot read its sixth record in process ``rank``."""

    def __init__(self, rank: int, training: bool = True) -> None:
        super().__init__(training)
        self.rank = rank
        self.records = 0

    def __call__(self, record):
        self.records += 1
        if self.records == 6 and is_due(self.rank):
            raise UserError("the image is truncated")
        return super().__call__(record)


class FaultyEvaluator(ToyEvaluator):
    """Refuses the outputs that process ``rank`` has, or, ``at_end``, their sum."""

    def __init__(self, rank: int, at_end: bool = False) -> None:
        self.rank = rank
        self.at_end = at_end

    def process(self, inputs, outputs):
        if not self.at_end and is_due(self.rank):
            raise UserError("there are no images to evaluate")
        super().process(inputs, outputs)

    def evaluate(self):
        result = super().evaluate()
        if self.at_end and is_due(self.rank):
            raise UserError("no space is left for the results")
        return result
