"""Detecting softmax attention in a model, and telling what only looks like it.

``torch.nn.MultiheadAttention`` and its subclasses are recognised by their type. Of other modules
one is equipped if

1. it looks like attention: its class is called so (``NAME``), or the code of its class, or a
   function that this calls, calls ``scaled_dot_product_attention`` or
   ``multi_head_attention_forward``;
2. it computes attention: that code takes a softmax or calls one of these or of transformers'
   attention functions;
3. it is the innermost module of which both hold, and has no ``DropKey`` of its own, which is then
   found in its place;
4. its class is none of ``LOOKALIKES``, whose softmax does not run over keys.

What looks like attention and is not equipped is reported with the reason.
"""

import re
from dataclasses import dataclass

import torch
from torch import nn

from dropkey_core.attention.drop_key import DropKey
from dropkey_core.attention.modules import MultiheadAttention
from dropkey_core.equip.code import makes_weights, names
from dropkey_core.equip.depth import is_inside
from dropkey_core.equip.equipped import SETTINGS, EquippedAttention, drops_keys

# What classes of attention are called: Attention, WindowAttn, MHSA, SHMA, MHA, XCA, MLA ...
NAME = re.compile(r"(?i:att(n|ention))|[A-Z][SMHC]A$|MLA$")
# Names in the code of a class that tell that it computes attention.
_FUSED = {"scaled_dot_product_attention", "multi_head_attention_forward"}
_COMPUTING = {*_FUSED, "softmax", "Softmax", "ALL_ATTENTION_FUNCTIONS"}
# How many calls away from the methods of the class a function may be to count as their code.
_CALLS = 2

_UNNAMED = (
    "it takes a softmax between two products, and is not called attention: if it is, name it with "
    "include=..."
)
_GRAPH = (
    "it is a torch.fx graph, which has no attention modules any more: equip the model it was "
    "traced from, and take features with forward hooks"
)
_COMPUTES_NOTHING = "no softmax over keys was found in its code"
_HAS_DROPOUT = "it has dropout, whose place DropKey takes: set its dropout to 0 first"
_BESIDE = "it computes attention beside the attention inside it, which is equipped"
_CHANNELS = "its softmax runs over channels, not over keys"
_LINEAR = "no query has weights over the keys: it is linear in their number"
_TWO_MAPS = "it mixes two maps after their softmax: what one drops, the other keeps"
_SAMPLES = "its softmax runs over points sampled around each query, not over keys"
_NO_KEYS = "its softmax weighs branches or groups, not keys"
_LAGS = "its softmax weighs time lags, not keys"
_NO_VALUES = "it returns its map and averages no values"

# Class names -> why modules of such a class, or of one derived from it, are not equipped.
LOOKALIKES: dict[str, str] = {
    "XCA|CrossCovarianceAttn": _CHANNELS,  # XCiT, EdgeNeXt
    r"\w*Channel(Self)?Att(n|ention)\w*": _CHANNELS,  # DaViT, Florence-2
    r"(MobileViTV2)?Linear(Self)?Attention": _LINEAR,  # not Kimi Linear's, which takes a softmax
    "FactorAttnConvRelPosEnc": _LINEAR,  # CoaT
    r"Nystromformer\w*Attention": _LINEAR,
    "GPSA": _TWO_MAPS,  # ConViT
    r"Diff(erential)?Att(n|ention)|DiffParallelScalingBlock": _TWO_MAPS,
    r"\w*Deformable(Self|Cross)?Att(n|ention)": _SAMPLES,  # Deformable DETR and its kin
    "SelectiveKernelAttn|GroupViTAssignAttention": _NO_KEYS,
    "AutoformerAttention": _LAGS,
    r"\w*MHAttentionMap": _NO_VALUES,  # the mask head of DETR
}

# Implementations of transformers that compute attention in one call of their own.
_OPAQUE = re.compile(r"flash|flex|paged|/")


@dataclass(frozen=True)
class LeftOut:
    """A module that looks like attention and is not equipped.

    Attributes:
        name: its name in the model.
        class_name: the name of its class.
        reason: why it is left out, and what to do if something can be done.
    """

    name: str
    class_name: str
    reason: str


def find_attention(model: nn.Module) -> tuple[dict[str, nn.Module], list[LeftOut]]:
    """Return the attention that can be equipped, or is already, and what only looks like it.

    Args:
        model: any module; it may be attention itself.

    Returns:
        the modules by name, and those left out; both in the order in which they were registered
    """
    looking = {name: m for name, m in model.named_modules() if looks_like_attention(type(m))}
    reasons = {name: why_not(module) for name, module in looking.items()}
    outer = {o for o in looking for name in looking if is_inside(name, o) and not reasons[name]}
    found = {n: m for n, m in looking.items() if reasons[n] is None and n not in outer}
    left_out = []
    for name, reason in reasons.items():
        if name in found or any(is_inside(name, other) for other in found):
            continue
        cls = type(looking[name])
        inside = [m for inner, m in looking.items() if is_inside(inner, name)]
        if inside and all(isinstance(module, DropKey) for module in inside):
            continue  # it has DropKey of its own
        if inside and (reason == _UNNAMED or not _COMPUTING & names(cls)):
            continue  # it only wraps attention
        left_out.append(LeftOut(name, cls.__name__, reason or _BESIDE))
    return found, left_out


def looks_like_attention(cls: type) -> bool:
    """Return whether the name of a class, its ancestry or its code speaks of attention."""
    is_known = issubclass(cls, nn.MultiheadAttention | EquippedAttention | DropKey)
    if is_known or NAME.search(cls.__name__) is not None or _FUSED & names(cls, _CALLS):
        return True
    return makes_weights(cls) or (issubclass(cls, torch.fx.GraphModule) and _has_attention(cls))


def _has_attention(cls: type[torch.fx.GraphModule]) -> bool:
    """Return whether a graph, whose code names all that was called, was traced from attention."""
    used = names(cls, _CALLS)
    return bool(_COMPUTING & used) and any(NAME.search(name) for name in used)


def why_not(module: nn.Module) -> str | None:
    """Return why a module that looks like attention is not equipped; None if it can be."""
    if drops_keys(module):
        return why_never(module)
    return why_not_class(type(module)) or why_never(module)


def why_never(module: nn.Module) -> str | None:
    """Return why a module cannot be equipped, not even where ``include`` names it; or None."""
    if drops_keys(module):
        is_ours = isinstance(module, MultiheadAttention) and not isinstance(
            module, EquippedAttention
        )
        return _HAS_DROPOUT if is_ours and module.dropout else None
    reason = _why_never_class(type(module))
    implementation = getattr(vars(module).get("config"), "_attn_implementation", None)
    if reason is None and isinstance(implementation, str) and _OPAQUE.search(implementation):
        advice = 'call model.set_attn_implementation("sdpa") first'
        return f'the implementation "{implementation}" cannot be equipped: {advice}'
    taken = [name for name in (*SETTINGS, "observe", "_dropkey") if _has(module, name)]
    if reason is None and taken:
        return f"it has an attribute {taken[0]} of its own"
    return reason


def why_not_class(cls: type) -> str | None:
    """Return why modules of a class that looks like attention are not equipped; None if they are.

    It depends on the class alone; ``why_not`` looks at the module, too.
    """
    never = _why_never_class(cls)
    if never is not None or issubclass(cls, nn.MultiheadAttention):
        return never
    if not _COMPUTING & names(cls, _CALLS):
        return _COMPUTES_NOTHING
    for pattern, reason in LOOKALIKES.items():
        if any(re.fullmatch(pattern, base.__name__) for base in cls.__mro__):
            return reason
    is_named = NAME.search(cls.__name__) or _FUSED & names(cls, _CALLS)
    return None if is_named else _UNNAMED


def _why_never_class(cls: type) -> str | None:
    if issubclass(cls, nn.MultiheadAttention):
        inherits = cls.forward is nn.MultiheadAttention.forward
        return None if inherits else "it overrides forward of torch.nn.MultiheadAttention"
    if issubclass(cls, torch.jit.ScriptModule):
        return "it is compiled by TorchScript: equip the model before scripting"
    return _GRAPH if issubclass(cls, torch.fx.GraphModule) else None


def _has(module: nn.Module, name: str) -> bool:
    """Return whether a module has an attribute, without running a property."""
    parts = (vars(module), module._parameters, module._buffers, module._modules)
    return hasattr(type(module), name) or any(name in part for part in parts)
