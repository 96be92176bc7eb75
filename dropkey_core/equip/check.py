"""``check_dropkey``: does an equipped model drop what it should on real inputs, and nothing else?

Shapes: (..., Lq, Lk) = batch and heads in any number of axes, queries, keys.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dropkey_core.attention.drop_key import DropKey
from dropkey_core.equip.apply import attention_that_drops, remove_dropkey
from dropkey_core.equip.equipped import original_name, temporary_attributes
from dropkey_core.equip.interception import SOFTMAXES, with_dim
from dropkey_core.equip.report import count, table
from dropkey_core.equip.trial import trial

# Of the weights of a call, so many are looked at, from the first on.
_MAX_WEIGHTS = 2**20


@dataclass(frozen=True)
class CheckedSite:
    """What an attention that drops keys did in one training forward.

    Attributes:
        name: its name in the model.
        class_name: the name of its original class.
        drop_ratio: probability that a query loses a key.
        num_calls: how often it was called.
        lost: share of the keys a query may attend to that were lost. Somewhat below the ratio where
            queries have few keys, since none loses all, and for overlapping patterns. None: it
            showed no weights, or not as many without dropping.
    """

    name: str
    class_name: str
    drop_ratio: float
    num_calls: int
    lost: float | None


@dataclass(frozen=True)
class UncoveredAttention:
    """A softmax or fused attention outside everything that drops keys.

    Attributes:
        name: of the innermost module that was running; "" is the model itself.
        class_name: the name of its class.
        function: what was called.
        shape: of the weights, or of what the softmax was taken of.
        num_calls: how often.
    """

    name: str
    class_name: str
    function: str
    shape: tuple[int, ...]
    num_calls: int


@dataclass(frozen=True)
class DropKeyCheck:
    """What ``check_dropkey`` found; print it.

    Attributes:
        sites: in the order of execution; those that were not called come last.
        uncovered: in the order of execution.
        evaluation_difference: largest difference between the outputs in evaluation mode with and
            without DropKey; 0.0 means equal to the last bit.
    """

    sites: tuple[CheckedSite, ...]
    uncovered: tuple[UncoveredAttention, ...]
    evaluation_difference: float

    def __str__(self) -> str:
        """Return a table, a line for each module."""
        called = sum(site.num_calls > 0 for site in self.sites)
        rows = [("attention", "class", "calls", "drop_ratio", "lost keys")]
        rows += [
            (
                site.name or "(the model)",
                site.class_name,
                str(site.num_calls),
                f"{site.drop_ratio:.4f}",
                _told(site),
            )
            for site in self.sites
        ]
        lines = [
            f"DropKey: {called} of {count(len(self.sites), 'attention module')} called",
            *table(rows),
            "Evaluation: "
            + (
                f"differs by up to {self.evaluation_difference:.3g} from the model without DropKey"
                if self.evaluation_difference
                else "equal to the model without DropKey, to the last bit"
            ),
            f"Attention that drops no keys: {len(self.uncovered) or 'none'}",
        ]
        if self.uncovered:
            lines += table(
                (x.name or "(the model)", x.class_name, x.function, str(x.shape), f"{x.num_calls}x")
                for x in self.uncovered
            )
        return "\n".join(lines)


def check_dropkey(model: nn.Module, *inputs: Any, **named_inputs: Any) -> DropKeyCheck:
    """Run an equipped model, and tell what its attention really does.

    Four forward passes without gradients: two in training mode, with keys dropped and without, and
    two in evaluation mode, with DropKey and without. They leave no trace: buffers, modes and the
    random state are put back. Attention is computed explicitly in training mode, which takes more
    time and memory than training does.

    Uncovered attention is every fused attention, and every softmax of at least three axes or over
    a square matrix inside a submodule, that runs outside of what drops keys. What flash-attn,
    xformers and FlexAttention compute is not seen.

    Args:
        model: with attention that drops keys.
        *inputs: what it is called with, as in training.
        **named_inputs: the same, by name.

    Returns:
        for each attention whether it was called and which share of keys was lost; what no attention
        that drops keys covers; how evaluation compares

    Raises:
        ValueError: nothing drops keys.
    """
    sites = attention_that_drops(model)

    def run(network: nn.Module) -> Any:
        return network(*inputs, **named_inputs)

    watch = _Watch(model, sites)
    with trial(model, training=True), _observed(sites, dropping=False) as before:
        run(model)
    with trial(model, training=True), _observed(sites, dropping=True) as after, watch:
        run(model)
    with trial(model, training=False):
        outputs = run(model)
    plain = _without_dropkey(model)
    with trial(plain, training=False):
        difference = _difference(outputs, run(plain))
    order = [*watch.calls, *(name for name in sites if name not in watch.calls)]
    checked = (
        CheckedSite(
            name,
            original_name(sites[name]),
            float(sites[name].drop_ratio),  # type: ignore[arg-type]
            watch.calls[name],
            _lost(before[name], after[name]),
        )
        for name in order
    )
    uncovered = (
        UncoveredAttention(*call, times)
        for (site, call), times in watch.attended.items()
        if site is None or not after[site]
    )
    return DropKeyCheck(tuple(checked), tuple(uncovered), difference)


# Name of the innermost module that was running, its class, the function, and the shape.
_Call = tuple[str, str, str, tuple[int, ...]]


@contextmanager
def _observed(sites: dict[str, nn.Module], dropping: bool) -> Iterator[dict[str, list[Tensor]]]:
    """Collect for each call of each attention where its weights are above 0.

    Yields:
        name -> (W,) bool for each call, the first of its weights
    """
    above: dict[str, list[Tensor]] = {name: [] for name in sites}
    with ExitStack() as stack:
        for name, module in sites.items():
            settings: dict[str, Any] = {} if dropping else {"drop_ratio": 0.0}
            if isinstance(module, DropKey):
                stack.callback(module.register_forward_hook(_kept_into(above[name])).remove)
            else:
                settings |= {"observe": _collector(above[name]), "reweigh": None}
            stack.enter_context(temporary_attributes(module, settings))
        yield above


def _collector(above: list[Tensor]) -> Callable[[Tensor], None]:
    return lambda weights: above.append(weights.flatten()[:_MAX_WEIGHTS] > 0)


def _kept_into(above: list[Tensor]) -> Callable[..., None]:
    """Return a forward hook for ``DropKey`` that collects which logits it leaves as they are."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        logits = args[0].flatten()[:_MAX_WEIGHTS]
        above.append((logits > -torch.inf) & (output.flatten()[:_MAX_WEIGHTS] == logits))

    return hook


class _Watch(TorchFunctionMode):
    """While active, counts the calls of attention, and sees attention outside of it.

    Args:
        model: what will run.
        sites: the attention in it that drops keys, by name.

    Attributes:
        calls: name of an attention that drops keys -> how often it was called.
        attended: for each call of attention the name of what drops keys around it, if anything
            does, and what the call was -> how often.
    """

    def __init__(self, model: nn.Module, sites: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.sites = set(sites.values())
        self.running: list[nn.Module] = []
        self.calls: Counter[str] = Counter()
        self.attended: Counter[tuple[str | None, _Call]] = Counter()
        self.hooks = ExitStack()

    def __enter__(self) -> "_Watch":
        """Begin."""
        for module in self.names:
            for hook in (
                module.register_forward_pre_hook(self._begin, prepend=True),
                module.register_forward_hook(self._end, always_call=True),
            ):
                self.hooks.callback(hook.remove)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """End."""
        self.hooks.close()
        super().__exit__(*error)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look at one call to torch."""
        kwargs = kwargs or {}
        describe = _ATTENTION.get(func)
        if describe is not None:
            self._note(describe(*args, **with_dim(kwargs)))
        return func(*args, **kwargs)

    def _note(self, call: tuple[str, tuple[int, ...]]) -> None:
        function, shape = call
        inner = self.running[-1]
        name = self.names[inner]
        if len(shape) > 2 or (name and len(shape) == 2 and shape[0] == shape[1] > 1):
            around = [*self.running, *(m for m in inner.children() if isinstance(m, DropKey))]
            sites = (self.names[module] for module in around if module in self.sites)
            self.attended[next(sites, None), (name, original_name(inner), function, shape)] += 1

    def _begin(self, module: nn.Module, _: Any) -> None:
        self.running.append(module)
        if module in self.sites:
            self.calls[self.names[module]] += 1

    def _end(self, module: nn.Module, *_: Any) -> None:
        self.running.pop()


def _softmax(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Any:
    is_last = dim in (None, -1, input.dim() - 1)
    return "softmax" if is_last else f"softmax over axis {dim}", tuple(input.shape)


def _gumbel_softmax(logits: Tensor, *_: Any, dim: int = -1, **__: Any) -> Any:
    return _softmax(logits, dim)


def _fused(query: Tensor, key: Tensor, *_: Any, **__: Any) -> Any:
    return "scaled_dot_product_attention", (*query.shape[:-1], key.shape[-2])


def _multi_head(query: Tensor, key: Tensor, *rest: Any, **named: Any) -> Any:
    heads = named["num_heads"] if "num_heads" in named else rest[2]
    return "multi_head_attention_forward", (*query.shape[1:-1], heads, len(query), len(key))


# Function -> what it is called, and the shape of its weights, from its arguments.
_ATTENTION: dict[Callable[..., Any], Callable[..., tuple[str, tuple[int, ...]]]] = {
    F.scaled_dot_product_attention: _fused,
    F.multi_head_attention_forward: _multi_head,
    F.gumbel_softmax: _gumbel_softmax,
    **dict.fromkeys(SOFTMAXES, _softmax),
}


def _without_dropkey(model: nn.Module) -> nn.Module:
    """Return a copy of the model without DropKey that shares its parameters."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    plain = copy.deepcopy(model, shared)
    remove_dropkey(plain)
    return plain


def _lost(before: list[Tensor], after: list[Tensor]) -> float | None:
    """Return which share of what is True before is not so after; None if they do not fit."""
    if not before or [len(x) for x in before] != [len(x) for x in after]:
        return None
    allowed, kept = (torch.cat(x) for x in (before, after))
    num_allowed = int(allowed.sum())
    return int((allowed & ~kept).sum()) / num_allowed if num_allowed else None


def _told(site: CheckedSite) -> str:
    if not site.num_calls:
        return "not called"
    return "not seen" if site.lost is None else f"{site.lost:.4f}"


def _difference(outputs: Any, others: Any) -> float:
    """Return the largest difference of the tensors in two outputs; inf if they are not alike."""
    ours, plain = list(_tensors(outputs)), list(_tensors(others))
    if [x.shape for x in ours] != [x.shape for x in plain]:
        return float("inf")
    pairs = ((x, y) for x, y in zip(ours, plain, strict=True) if not _equal(x, y))
    differences = ((x.double() - y.double()).abs() for x, y in pairs)
    return max((float(x.nan_to_num(torch.inf).max()) for x in differences), default=0.0)


def _equal(x: Tensor, y: Tensor) -> bool:
    return bool(((x == y) | ((x != x) & (y != y))).all())


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested mappings, sequences and dataclasses."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output):
        for field in fields(output):
            yield from _tensors(getattr(output, field.name))
