"""Judging one architecture of the sweep: what apply_dropkey does to it, site by site.

See ``sweep``. Shapes: (..., Lq, Lk) = batch and heads in any number of axes, queries, keys.
"""

import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from sweep_models import Inputs, candidates, inputs
from torch import Tensor, nn

from dropkey_core.analysis.capture import captured_attention
from dropkey_core.attention.modules import MultiheadAttention
from dropkey_core.equip import apply_dropkey, check_dropkey, set_drop_ratio
from dropkey_core.equip.equipped import original_name
from dropkey_core.equip.recognition import LeftOut, find_attention

MILLION_PARAMETERS = 100
SECONDS = 8  # of a processor, to find out how to make and call an architecture
RATIO = 0.5
HIGH = 0.9  # so that many rows would lose all their keys

# Verdicts, from the best on.
RIGHT, NO_ATTENTION, REFUSED, LIMIT = "right", "no attention", "refused", "limit"
LATE = "refused in the first step"
UNBUILT, LOUD, SILENT = "cannot be built here", "wrong with an error", "wrong silently"
VERDICTS = (RIGHT, NO_ATTENTION, REFUSED, LATE, LIMIT, UNBUILT, LOUD, SILENT)

# Classes whose softmax outside of attention has been looked at -> what it weighs.
NO_KEYS = {
    "BltPatcher": "the next byte, whose entropy cuts patches",
    "GraniteSpeechCTCEncoder": "characters",
    "GraniteSpeechPlusCTCEncoder": "characters",
    "DeepseekV4HyperConnection": "streams of the residual",
    "Glm5NextTextHyperConnection": "streams of the residual",
    "Ovis2VisionModel": "entries of a visual vocabulary",
    "SuperPointInterestPointDecoder": "places in a cell of the image",
    "SwitchTransformersTop1Router": "experts",
    "ZayaRouter": "experts",
    "GlobalContext": "places, in one pooling for all of them",
}


class Unbuilt(Exception):
    """No way to make and call the architecture was found; the arguments are the errors met."""


class Driver:
    """Runs a model with one set of inputs, the same way each time but for the seed."""

    def __init__(self, model: nn.Module, arguments: Inputs) -> None:
        self.model, self.arguments = model, arguments

    def __call__(self, seed: int = 0) -> list[Tensor]:
        """Return the floating tensors of the output."""
        torch.manual_seed(seed)
        arguments = self.arguments.items()
        fresh = {k: v.clone() if isinstance(v, Tensor) else v for k, v in arguments}
        return _floating(self.model(**fresh))


def _floating(output: Any) -> list[Tensor]:
    """Return the floating tensors in nested dictionaries, lists and tuples."""
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in _floating(part)]
    is_floating = isinstance(output, Tensor) and output.is_floating_point()
    return [output] if is_floating else []


def build(library: str, name: str) -> tuple[Driver, str]:
    """Return an architecture with inputs that it takes, and how it was made small."""
    errors = ["no model class has this configuration"]
    got_further: list[str] = []
    end = time.process_time() + SECONDS
    for how, make in candidates(library, name):
        if time.process_time() > end:
            break
        try:
            torch.manual_seed(0)
            _check_size(make)
            model = make().float().eval()
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        for arguments in inputs(library, model):
            driver = Driver(model, arguments)
            try:
                with torch.no_grad():
                    outputs = driver()
                if not outputs:
                    raise ValueError("the output has no floating tensor")
            except Exception as error:
                got_further.append(f"{type(error).__name__}: {error}")
                continue
            _randomise(model)
            return driver, how
    raise Unbuilt(*map(_line, dict.fromkeys([*got_further, *reversed(errors)])))


def _check_size(make: Callable[[], nn.Module]) -> None:
    try:
        with torch.device("meta"):
            number = sum(p.numel() for p in make().parameters())
    except Exception:
        return  # some cannot be made without memory
    if number > MILLION_PARAMETERS * 1e6:
        raise MemoryError(f"{number / 1e6:.0f} million parameters at its smallest")


def _randomise(model: nn.Module) -> None:
    """Make all parameters random: what is 0 hides the attention, what is large saturates it."""
    with torch.no_grad():
        for parameter in filter(torch.is_floating_point, model.parameters()):
            is_scale = parameter.dim() < 2  # of a norm, most of all
            spread = parameter.std(correction=0).clamp(min=0.1)
            parameter.mul_(0.3 if is_scale else 0.1 / spread)
            parameter.add_(0.05 * torch.randn_like(parameter))


def _silence(model: nn.Module) -> None:
    """Set every other random thing of a model to 0: dropout, LayerDrop, SpecAugment."""
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for name, value in list(getattr(holder, "__dict__", {}).items()):
                if "drop" in name and name != "drop_ratio" and isinstance(value, float):
                    setattr(holder, name, 0.0)
                if name == "apply_spec_augment":
                    setattr(holder, name, False)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def judge(driver: Driver) -> dict[str, Any]:
    """Return the verdict on one architecture, with what it is based on."""
    model = driver.model.train()
    try:
        with torch.no_grad():
            driver()
    except Exception as error:
        why = f"training wants other inputs: {told(error)}"
        return {"verdict": LIMIT, "why": why, "sites": 0, "faults": []}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = apply_dropkey(model, RATIO, "constant")
    except ValueError as error:
        return _without_sites(driver, str(error))
    sites = [site.name for site in report.equipped]
    row: dict[str, Any] = {"sites": len(sites)}
    row["left_out"] = _left_out(report.left_out)
    beside, never, faults = _checked(driver, [*sites, *(out.name for out in report.left_out)])
    set_drop_ratio(model, 0.0)
    _silence(model)
    plain, row["rest_is_random"] = _plain_training(driver)
    for name in filter(lambda name: name not in never, sites):
        site = model.get_submodule(name)
        where = f"{name} ({original_name(site)})"
        faults += [[*fault, where] for fault in _drive(driver, site, plain, row["rest_is_random"])]
    row |= {"not_called": [f"{n} ({original_name(model.get_submodule(n))})" for n in never]}
    row |= {"beside": beside, "faults": _grouped(faults)}
    return row | _verdict(row)


def _verdict(row: dict[str, Any]) -> dict[str, str]:
    kinds = {kind: what for kind, what, _ in reversed(row["faults"])}
    for kind in (SILENT, LOUD, LATE):
        if kind in kinds:
            return {"verdict": kind, "why": kinds[kind]}
    if row["not_called"]:
        return {"verdict": LIMIT, "why": f"the inputs here do not reach {row['not_called'][0]}"}
    return {"verdict": RIGHT, "why": ""}


def _without_sites(driver: Driver, message: str) -> dict[str, Any]:
    """Judge a model in which apply_dropkey found nothing to equip."""
    driver.model.add_module("probe", MultiheadAttention(2, 1))  # check_dropkey wants something
    left_out = find_attention(driver.model)[1]
    reasons = message.partition("left out: ")[2]
    beside, _, faults = _checked(driver, [out.name for out in left_out])
    row = {
        "sites": 0,
        "left_out": _left_out(left_out),
        "beside": beside,
        "faults": faults,
        "why": _line(reasons),
    }
    if faults:
        return row | {"verdict": LOUD, "why": "attention is not found"}
    return row | {"verdict": REFUSED if beside or reasons else NO_ATTENTION}


def _checked(driver: Driver, known: list[str]) -> tuple[list[str], list[str], list[list[str]]]:
    """Return what check_dropkey says of a model, but for the shares of keys.

    Args:
        driver: of the model.
        known: names of modules that apply_dropkey has equipped or spoken of.

    Returns:
        softmaxes and fused attention outside of what drops keys, but in modules spoken of; names
        of attention that was never called; faults
    """
    try:
        check = check_dropkey(driver.model, **driver.arguments)
    except Exception as error:
        return [], [], [[_kind(error), f"check_dropkey: {told(error)}", ""]]
    never = [s.name for s in check.sites if not s.num_calls and s.name != "probe"]
    faults = []
    if check.evaluation_difference:
        faults.append([SILENT, "evaluation differs", f"by {check.evaluation_difference:.2g}"])
    beside = []
    for out in check.uncovered:
        where = f"{out.name or 'the model'} ({out.class_name})"
        what = f"{out.function} of {out.shape}"
        if any(out.name == name or out.name.startswith(f"{name}.") for name in known):
            beside.append(f"{where}: {what}")
        elif out.class_name not in NO_KEYS:
            faults.append([SILENT, f"neither equipped nor spoken of: {what}", where])
    return beside, never, faults


def _plain_training(driver: Driver) -> tuple[list[Tensor], bool]:
    """Train with ratio 0: return the output, and whether the rest of the model is random.

    If it is, despite ``_silence``, or cannot train alone, all but the site stays in evaluation.
    """
    driver.model.train()
    with torch.no_grad():
        try:
            is_random = not _same(driver(1), driver(2))
        except Exception:
            is_random = True
        driver.model.train(not is_random)
        return driver(1), is_random


def _drive(
    driver: Driver, site: nn.Module, plain: list[Tensor], rest_is_random: bool
) -> Iterator[tuple[str, str]]:
    """Drive one site alone; yield its faults: how bad, and what."""
    site.training = True  # all the rest is, too, if nothing in it is random
    try:
        whole = _observed(driver, site)
        site.drop_ratio = RATIO  # type: ignore[assignment]
        yield from _outputs(driver, site, plain, _may_drop(whole))
        yield from _weights(_observed(driver, site), whole, RATIO)
        site.drop_ratio = HIGH  # type: ignore[assignment]
        yield from _weights(_observed(driver, site), whole, HIGH)
    except Exception as error:
        yield _kind(error), told(error)
    finally:
        site.drop_ratio = 0.0  # type: ignore[assignment]
        site.training = not rest_is_random
        driver.model.zero_grad()


def _observed(driver: Driver, site: nn.Module) -> list[Tensor]:
    with torch.no_grad(), captured_attention(site) as captured:
        driver(1)
    return captured[""]


def _outputs(
    driver: Driver, site: nn.Module, plain: list[Tensor], may_drop: bool
) -> Iterator[tuple[str, str]]:
    """Compare what two seeds and one seed give; look at gradients and at the explicit path."""
    returned: list[list[Tensor]] = []
    hook = site.register_forward_hook(lambda _, __, output: returned.append(_floating(output)))
    first, again, other = (driver(seed) for seed in (1, 1, 2))
    hook.remove()
    if not _same(first, again):
        yield SILENT, "one seed gives two outputs"
    if may_drop and _same(first, other) and _same(returned[0], returned[-1]):
        nothing = _same(first, plain)
        yield SILENT, f"two seeds give one output{', and nothing is dropped' * nothing}"
    yield from _gradients(driver.model, first, plain)
    with torch.no_grad(), captured_attention(site):
        if not _close(first, driver(1)):
            yield SILENT, "the explicit path gives another output than the fused one"


def _gradients(
    model: nn.Module, outputs: list[Tensor], plain: list[Tensor]
) -> Iterator[tuple[str, str]]:
    """Look for infinite numbers where the model without DropKey has none, and in gradients."""
    pairs = zip(outputs, plain, strict=True)
    if any((y.isfinite() & ~x.isfinite()).any() for x, y in pairs if x.shape == y.shape):
        yield SILENT, "the output is not finite"
    losses = [x[x.isfinite()].float().square().mean() for x in outputs if x.requires_grad]
    if losses:
        torch.stack(losses).sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        if not all(grad.isfinite().all() for grad in grads):
            yield SILENT, "gradients are not finite"


def _weights(observed: list[Tensor], free: list[Tensor], ratio: float) -> Iterator[tuple[str, str]]:
    """Compare weights (..., Lq, Lk) with keys dropped with those without, call by call."""
    if [w.shape for w in observed] != [w.shape for w in free]:
        yield SILENT, "it attends another number of times, or to other keys"
        return
    lost = expected = variance = 0.0
    for weights, whole in zip(observed[:1], free[:1], strict=True):
        weights, whole = weights.double(), whole.double()
        allowed = whole > 1e-30 * whole.amax(-1, keepdim=True)
        kept = (weights > 0) & allowed
        number = allowed.sum(-1)
        if ((weights > 1e-6) & ~allowed).any():
            yield SILENT, "masked keys are seen"
        if ((number > 0) & ~kept.any(-1)).any():
            yield SILENT, "a row has lost all keys"
        sink = 1.0 - whole.sum(-1, keepdim=True)  # what no key gets
        sink = sink.where(sink > 1e-5, 0.0)
        rest = (whole * kept).sum(-1, keepdim=True) + sink
        share = whole * kept / rest.clamp(min=1e-30)
        if (weights - share).abs().max() > 1e-3:
            yield SILENT, "a row is not the softmax over the keys that stay"
        lost += (allowed & ~kept).sum().item()
        all_lost = ratio ** number.clamp(min=1)
        mean = number * (ratio - all_lost)
        expected += mean.sum().item()
        squared = number * ratio * (1 - ratio) + (number * ratio) ** 2 - number**2 * all_lost
        variance += (squared - mean**2).sum().item()
    if abs(lost - expected) > 6 * max(variance, 0.0) ** 0.5 + 1e-6:
        yield SILENT, f"loses {lost:.0f} keys where {expected:.0f} are expected"


def _may_drop(free: list[Tensor]) -> bool:
    """Return whether any query has two keys to see."""
    return any(((w > 1e-6 * w.amax(-1, keepdim=True)).sum(-1) > 1).any() for w in free)


def _kind(error: Exception) -> str:
    is_refusal = isinstance(error, RuntimeError) and "DropKey has nothing to act on" in str(error)
    return LATE if is_refusal else LOUD


def told(error: Exception) -> str:
    """Return an error in one line, with the function that raised it."""
    file, _, function, _ = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {_line(str(error))} ({Path(file).name}, {function})"


def _left_out(left_out: Iterable[LeftOut]) -> list[list[str]]:
    """Return the first name of each class and reason, class, and reason."""
    first = {(out.class_name, out.reason): out.name for out in reversed(list(left_out))}
    return [[name, *key] for key, name in first.items()]


def _grouped(faults: list[list[str]]) -> list[list[str]]:
    """Keep the first of faults that differ in numbers and in the site's name alone."""
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for kind, what, where in faults:
        key = (kind, re.sub(r"\d+", "N", what), where.partition(" ")[2])
        groups.setdefault(key, []).append([kind, what, where])
    return [
        [kind, what, where + f" and {len(group) - 1} more" * (len(group) > 1)]
        for group in groups.values()
        for kind, what, where in group[:1]
    ]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True)
    )


def _close(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        torch.allclose(
            x, y, 1e-3, 1e-3 * (y.abs().amax().item() if y.numel() else 0) + 1e-6, equal_nan=True
        )
        for x, y in zip(a, b, strict=True)
    )


def _line(text: str, length: int = 300) -> str:
    return re.sub(r"[ \n]*\n[ \n]*", "; ", text.strip())[:length]
