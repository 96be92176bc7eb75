"""Transformer blocks that variants act on: their self-attention, prefix tokens and hooks.

Self-attention is that among all tokens. Not meant are class attention, where one token asks, and
outlook attention, whose maps lie in windows: the variants are not defined for them.
"""

import re

from torch import nn

from dropkey_core.equip.apply import Select, attention_that_drops
from dropkey_core.equip.depth import block_around
from dropkey_core.equip.equipped import original_name

# Class names -> why such attention is not self-attention among all tokens.
_OTHER_KINDS: dict[str, str] = {
    r"Class\w*Att": "only the class token asks in it",  # VOLO, CaiT, XCiT
    r"Outlook": "its maps are of small windows, (B, H, windows, keys, keys)",  # VOLO
}

# Parameters (..., tokens, C) that models put before the patches, by their names in timm,
# torchvision, transformers and official networks.
_PREFIX_NAMES = (
    "cls_token",
    "class_token",
    "dist_token",
    "distillation_token",
    "reg_token",
    "register_tokens",
)


def self_attention(network: nn.Module, select: Select | None = None) -> dict[str, nn.Module]:
    """Return the self-attention of the blocks of an equipped network, by name.

    That is all its attention but class attention, outlook attention, and attention that is in no
    container of blocks (``ModuleList`` and the like), as in the tokens-to-token stage of T2T-ViT.

    Args:
        network: a model with attention that drops keys; a ratio of 0 is enough.
        select: gets name and module of each attention that drops keys; those for which it returns
            True are chosen, in a container or not. None: the rule above.

    Raises:
        ValueError: nothing drops keys; nothing is chosen; ``select`` chooses class or outlook
            attention.
    """
    found = attention_that_drops(network)
    if select is None:
        chosen = {n: m for n, m in found.items() if not why_not(m) and block_around(network, n)}
    else:
        chosen = {n: m for n, m in found.items() if select(n, m)}
        refused = [
            f"{n} ({original_name(m)}): {why_not(m)}" for n, m in chosen.items() if why_not(m)
        ]
        if refused:
            raise ValueError(f"select must choose self-attention, got {'; '.join(refused)}")
    if not chosen:
        names = ", ".join(f"{name} ({original_name(module)})" for name, module in found.items())
        raise ValueError(
            f"{type(network).__name__} has no self-attention to act on among what drops keys: "
            f"{names}; choose with select"
        )
    return chosen


def why_not(attention: nn.Module) -> str | None:
    """Return why an attention is not self-attention among all tokens; None if it may be."""
    for pattern, reason in _OTHER_KINDS.items():
        if re.search(pattern, original_name(attention)):
            return reason
    return None


def block_name(network: nn.Module, attention_name: str) -> str:
    """Return the name of the block around an attention, or else of what holds the attention."""
    return block_around(network, attention_name) or attention_name.rpartition(".")[0]


def num_prefix_tokens(model: nn.Module, name: str) -> int:
    """Return how many tokens stand before the patches in a sequence.

    The nearest module around it decides that says so (timm's ``num_prefix_tokens``) or that has
    parameters which are named as such tokens are.

    Args:
        model: any module.
        name: of a module in it that gets the sequence.
    """
    while True:
        name = name.rpartition(".")[0]
        around = model.get_submodule(name)
        known = getattr(around, "num_prefix_tokens", None)
        if isinstance(known, int):
            return known
        lengths = {
            parameter_name.rpartition(".")[2]: parameter.shape[-2]
            for parameter_name, parameter in around.named_parameters()
            if parameter_name.rpartition(".")[2] in _PREFIX_NAMES
        }
        if lengths or not name:
            return sum(lengths.values())


def remove_hooks(module: nn.Module, owner: type) -> None:
    """Remove the forward hooks of a module itself that are methods of an instance of ``owner``.

    Handles would do for the model, but copies of it have none.
    """
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), owner):
                del hooks[key]
