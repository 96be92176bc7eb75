"""Optimizer: AdamW with gradient clipping, parameter groups, schedules, averages of weights.

Both engines set ``lr = base lr * multiplier(step / max_iter)`` before each step, so a schedule
holds no state and a resumed run needs no care.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def param_groups(
    model: nn.Module,
    base_lr: float,
    lr_multipliers: Mapping[str, float] | None = None,
    decay_vectors: bool = True,
) -> list[dict[str, Any]]:
    """Return the trainable parameters of ``model``, grouped by learning rate.

    Args:
        model: frozen parameters (``requires_grad`` False) are left out.
        base_lr: learning rate of whatever no multiplier names; that group comes first.
        lr_multipliers: factor by name. A parameter belongs to the first key that is one or more
            whole parts of its dotted name: ``backbone`` covers ``module.backbone.0.body``.
        decay_vectors: False keeps weight decay off biases, off the gains of norms and off what a
            part of the model lists in ``no_weight_decay()``: timm's convention.

    Raises:
        ValueError: a multiplier names nothing in the model.
    """
    multipliers = dict(lr_multipliers or {})
    named = dict(model.named_parameters())
    for key in multipliers:
        if not any(_covers(key, name) for name in named):
            raise ValueError(f"lr_multipliers: no parameter's name contains {key!r}")
    undecayed = set() if decay_vectors else _undecayed(model)
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (key, decays): [] for key in ("", *multipliers) for decays in (True, False)
    }
    for name, parameter in named.items():
        if parameter.requires_grad:
            key = next((key for key in multipliers if _covers(key, name)), "")
            groups[key, name not in undecayed].append(parameter)
    return [
        {
            "params": parameters,
            "lr": base_lr * multipliers.get(key, 1.0),
            **({} if decays else {"weight_decay": 0.0}),
        }
        for (key, decays), parameters in groups.items()
        if parameters
    ]


def _undecayed(model: nn.Module) -> set[str]:
    """Names of parameters that timm's convention keeps weight decay off."""
    names = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    for prefix, module in model.named_modules():
        if callable(listed := getattr(module, "no_weight_decay", None)):
            names |= {f"{prefix}.{name}" if prefix else name for name in listed()}
    return names


def _covers(key: str, name: str) -> bool:
    return f".{key}." in f".{name}."


class ClippedAdamW(torch.optim.AdamW):
    """AdamW whose step first scales all gradients so that their total norm is at most ``max_norm``.

    The clipping lives here because detectron2's plain trainer has none and both engines must train
    alike. A gradient scaler unscales before the step. Gradients without a finite norm are refused:
    clipping would spread one that is NaN to all weights.

    Args:
        params: parameters or groups of them, for instance from :func:`param_groups`.
        lr: learning rate of groups that bring none.
        weight_decay: decoupled decay (AdamW, arXiv 1711.05101).
        max_norm: bound on the L2 norm over all gradients together; 0 or None clips nothing.
        betas: decay of the running first and second moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        max_norm: float | None = 0.1,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        first, second = betas
        # tuple: a ListConfig would be kept, and saved, by the optimizer's groups.
        super().__init__(
            params, lr=lr, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=True
        )
        self.max_norm = max_norm
        # A fused step would unscale by itself, after our clipping: let the scaler do it before.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Clip, then update; ``closure`` recomputes the gradients first, as torch defines it.

        Raises:
            FloatingPointError: the norm of the gradients is not finite; nothing is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        gradients = gradients_of(self)
        norm = finite_norm(gradients)
        if self.max_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
        super().step()
        return loss


def gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradients that a step would follow."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def finite_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients together, of shape ().

    Raises:
        FloatingPointError: it is not finite.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        broken = sum(not torch.isfinite(gradient).all() for gradient in gradients)
        many = f"{broken} of {len(gradients)} hold NaN or inf"
        total = f"their total norm is {norm.item()}"
        raise FloatingPointError(f"the gradients are not finite: {total}, and {many}")
    return norm


try:  # detectron2 checks that its schedulers are fvcore's
    from fvcore.common.param_scheduler import ParamScheduler
except ImportError:
    ParamScheduler = object

# detectron2's choice: warming up from zero would waste the first step.
WARMUP_START = 0.001


class Warmup(ParamScheduler):
    """The factor rises linearly from 0.001 over ``warmup``, a part of the run; 0 for none."""

    def __init__(self, warmup: float) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is a part of the run in [0, 1), got {warmup}")
        self.warmup = warmup

    def __call__(self, where: float) -> float:
        """Return the factor at ``where``, the part of the run that is done."""
        if where >= self.warmup:
            return 1.0
        return WARMUP_START + (1 - WARMUP_START) * where / self.warmup


class StepMultiplier(Warmup):
    """Multiply by ``gamma`` at each of ``milestones``, increasing parts of the run in (0, 1)."""

    def __init__(
        self, milestones: Sequence[float], gamma: float = 0.1, warmup: float = 0.0
    ) -> None:
        super().__init__(warmup)
        self.milestones, self.gamma = list(milestones), gamma
        if [0, *self.milestones, 1] != sorted({0, *self.milestones, 1}):
            raise ValueError(f"milestones must increase within (0, 1), got {self.milestones}")

    def __call__(self, where: float) -> float:
        """Return the factor at ``where``, the part of the run that is done."""
        passed = sum(where >= milestone for milestone in self.milestones)
        return super().__call__(where) * self.gamma**passed


class CosineMultiplier(Warmup):
    """Fall from 1 to ``final`` along half a cosine."""

    def __init__(self, final: float = 0.0, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        self.final = final

    def __call__(self, where: float) -> float:
        """Return the factor at ``where``, the part of the run that is done."""
        cosine = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * where))
        return super().__call__(where) * cosine


# With warm-up the weight of what went before is at most 1 - (1 + step)^-POWER, as in timm.
POWER = 2 / 3


class WeightAverage:
    """Exponential moving average (EMA) of a model's weights, evaluated in their place.

    After each step an average becomes ``decay * average + (1 - decay) * weight``.
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
