"""Attention that drops keys, to build with: what is dropped, how much, and the attention itself."""

from dropkey_core.attention.alignment import (
    Expected,
    MonteCarlo,
    expected_attention,
    monte_carlo_attention,
    smoothing_coefficients,
)
from dropkey_core.attention.drop_key import DropKey
from dropkey_core.attention.functional import drop_key_attention, drop_key_softmax
from dropkey_core.attention.modules import MultiheadAttention
from dropkey_core.attention.patterns import Block, Cross, Key, Window
from dropkey_core.attention.places import AfterSoftmax, BeforeSoftmax, Renormalised
from dropkey_core.attention.schedule import drop_ratios

__all__ = [
    "AfterSoftmax",
    "BeforeSoftmax",
    "Block",
    "Cross",
    "DropKey",
    "Expected",
    "Key",
    "MonteCarlo",
    "MultiheadAttention",
    "Renormalised",
    "Window",
    "drop_key_attention",
    "drop_key_softmax",
    "drop_ratios",
    "expected_attention",
    "monte_carlo_attention",
    "smoothing_coefficients",
]
