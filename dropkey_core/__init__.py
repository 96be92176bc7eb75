"""DropKey (arXiv 2208.02646): dropout for self-attention that masks keys before the softmax."""

from dropkey_core.attention import MultiheadAttention, drop_key_attention, drop_ratios

__all__ = ["MultiheadAttention", "drop_key_attention", "drop_ratios"]
