"""Exponential moving average of a network's weights, used in evaluation."""

from timm.utils import ModelEmaV3
from torch import nn


class WeightAverage(ModelEmaV3):
    """timm's moving average as a part of the model, so that both engines save and resume it.

    It begins with the weights of the network that it gets. ``update``, called when a training step
    begins, makes of it decay a + (1 - decay) w, with the weights w that the step before left; so
    it lags one step behind. Buffers that are no numbers with a fraction are copied. In the state
    dict it is ``average.module.*``, a second network.

    Args:
        network: not kept; its copy, ``module``, takes no gradients.
        decay: weight of the average so far, in (0, 1).

    Raises:
        ValueError: another ``decay``.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"ema_decay must be 0 (no average) or in (0, 1), got {decay}")
        super().__init__(network, decay=decay)
        self.module.requires_grad_(False)
