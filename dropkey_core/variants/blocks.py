"""Transformer blocks with self-attention among all tokens, which variants act on.

Not meant are class attention, where one token asks, and outlook attention, whose maps lie in
windows: the variants are not defined for them.
"""

import re
from collections.abc import Callable

from torch import nn

from dropkey_core.equip.apply import attention_that_drops
from dropkey_core.equip.depth import block_around

Select = Callable[[str, nn.Module], bool]

# Class names -> why such attention is not self-attention among all tokens.
_OTHER_KINDS: dict[str, str] = {
    r"Class\w*Att": "only the class token asks in it",  # VOLO, CaiT, XCiT
    r"Outlook": "its maps are of small windows, (B, H, windows, keys, keys)",  # VOLO
}


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
        refused = [f"{n} ({class_name(m)}): {why_not(m)}" for n, m in chosen.items() if why_not(m)]
        if refused:
            raise ValueError(f"select must choose self-attention, got {'; '.join(refused)}")
    if not chosen:
        names = ", ".join(f"{name} ({class_name(module)})" for name, module in found.items())
        raise ValueError(
            f"{type(network).__name__} has no self-attention to act on among what drops keys: "
            f"{names}; choose with select"
        )
    return chosen


def why_not(attention: nn.Module) -> str | None:
    """Return why an attention is not self-attention among all tokens; None if it may be."""
    for pattern, reason in _OTHER_KINDS.items():
        if re.search(pattern, class_name(attention)):
            return reason
    return None


def class_name(attention: nn.Module) -> str:
    """Return the name of the class that an attention had before it was equipped."""
    return getattr(attention, "original_class", type(attention)).__name__


def block_name(network: nn.Module, attention_name: str) -> str:
    """Return the name of the block around an attention, or else of what holds the attention."""
    return block_around(network, attention_name) or attention_name.rpartition(".")[0]
