"""Callbacks on attention weights, between the softmax and the values.

An attention that drops keys has two places for it, empty by default:

* ``reweigh`` makes other weights of them, as the head mixing of Re-attention does. A module there
  is part of the model: its parameters are trained and saved.
* ``observe`` is shown the weights that average the values in the end, for analysis and for losses
  on attention. It is set for a while only, by ``captured_attention`` of ``dropkey_core.analysis``.

With either, attention is computed explicitly, at several times the time and memory of the fused
path.
"""

from collections.abc import Callable

from torch import Tensor

# (..., Lq, Lk) after softmax and dropping -> the weights (..., Lq, Lk) that average the values
Reweigh = Callable[[Tensor], Tensor]
# gets the weights (..., Lq, Lk) that average the values
Observe = Callable[[Tensor], None]
