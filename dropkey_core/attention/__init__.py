"""Attention that drops keys: the schedule, the function, the module."""

from dropkey_core.attention.functional import drop_key_attention
from dropkey_core.attention.modules import MultiheadAttention
from dropkey_core.attention.schedule import drop_ratios

__all__ = ["MultiheadAttention", "drop_key_attention", "drop_ratios"]
