"""Exponential moving average (EMA) of a model's weights, evaluated in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# With warm-up the weight of what went before is at most 1 - (1 + step)^-POWER, as in timm.
POWER = 2 / 3


class WeightAverage:
    """After each step an average becomes ``decay * average + (1 - decay) * weight``.

    It begins with the weights that the model has then. Buffers, the running averages of batch norm
    for instance, are treated alike; those that are no numbers with a fraction are copied.

    Args:
        model: its weights are followed, by the names of its state dict.
        decay: in (0, 1).
        warmup: begin with smaller decays, that of step s being at most 1 - (1 + s)^(-2/3).
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = False) -> None:
        self.decay = decay
        self.warmup = warmup
        self.state = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow the weights that ``model`` has after ``step`` steps, the first being 1."""
        decay = min(self.decay, 1 - (1 + step) ** -POWER) if self.warmup else self.decay
        pairs = [(self.state[name], value) for name, value in model.state_dict().items()]
        fractions = [pair for pair in pairs if pair[0].is_floating_point()]
        averages, weights = (list(side) for side in zip(*fractions, strict=True))
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)

    @contextmanager
    def in_place_of_weights(self, model: nn.Module) -> Iterator[None]:
        """Give ``model`` the averages within a block, and then its own weights back."""
        own = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the averages in a checkpoint, names and shapes of which are known to fit."""
        for name, average in self.state.items():
            average.copy_(state[name])
