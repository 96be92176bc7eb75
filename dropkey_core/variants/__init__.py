"""Methods that DropKey is compared with, each in place, alone or together."""

from dropkey_core.variants.blocks import self_attention
from dropkey_core.variants.diversification import attention_diversification
from dropkey_core.variants.reattention import (
    Reattention,
    apply_reattention,
    from_deepvit,
    remove_reattention,
)
from dropkey_core.variants.token_pooling import (
    TokenPooling,
    apply_token_pooling,
    remove_token_pooling,
)

__all__ = [
    "Reattention",
    "TokenPooling",
    "apply_reattention",
    "apply_token_pooling",
    "attention_diversification",
    "from_deepvit",
    "remove_reattention",
    "remove_token_pooling",
    "self_attention",
]
