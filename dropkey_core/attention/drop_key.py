"""DropKey as a module of its own, between the product of queries and keys and the softmax.

Shapes: (..., Lq, Lk) = batch and heads in any number of axes, queries, keys.
"""

from typing import NoReturn

import torch
from torch import Tensor, nn

from dropkey_core.attention.functional import check_logits
from dropkey_core.attention.masks import RESCUING_SHIFT, draw_seed
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import BeforeSoftmax, find_place
from dropkey_core.attention.schedule import check_drop_ratio


class DropKey(nn.Module):
    """DropKey for attention that is written out (arXiv 2208.02646, Algorithm 1, Eq. 12-14).

    ::

        logits = query @ key.transpose(-2, -1) * scale
        logits = self.drop_key(logits)
        weights = logits.softmax(-1)

    In training each query of each head loses random keys: with probability ``drop_ratio``

        g'_ij = g_ij + d_ij,  d_ij = -2048, else d_ij = 0

    where the paper has d_ij = -inf. The softmax gives such a key 0, to the last bit, unless its
    logit is some 1,900 above that of every key that is kept. A query that loses every key that it
    may attend to loses none of them: among keys that are all lowered alike the softmax is what it
    was. That holds, too, where masks are added or filled in *after* this module, with -inf or with
    a large negative number; such a query's weights then come from logits rounded to steps of 2^-13
    (float32), 2 (float16) or 16 (bfloat16). With masks that are in the logits already nothing is
    rounded. -2048 fits into every floating type.

    In evaluation, and with ``drop_ratio`` 0, logits come back as they are. ``torch.manual_seed``
    governs the draw, which is that of ``drop_key_softmax`` under the same seed.

    Args:
        drop_ratio: probability in [0, 1) that a query loses a key. An attribute that may be changed
            at any time.
        unit: what falls together: "key", a pattern such as ``Key(keep_self=True)`` or
            ``Block(size=2)``, or ``BeforeSoftmax`` of one.

    Raises:
        ValueError: ``drop_ratio`` outside [0, 1); a unit that acts after the softmax, or none.
    """

    def __init__(self, drop_ratio: float, unit: str | Pattern | BeforeSoftmax = "key") -> None:
        super().__init__()
        check_drop_ratio(drop_ratio)
        find_place(unit)  # refuses what acts elsewhere
        self.drop_ratio = drop_ratio
        self.unit = unit

    def forward(self, logits: Tensor) -> Tensor:
        """Lower the logits of the keys that are dropped.

        Args:
            logits: (..., Lq, Lk), floating, scaled; -inf = the query may not attend to the key.

        Returns:
            logits of that shape and type; those of dropped keys are lower by 2048

        Raises:
            ValueError: logits that are not floating, or nested; keys that do not fit the pattern.
        """
        check_logits(logits)
        if not self.training or self.drop_ratio == 0.0:
            return logits
        place, seed = find_place(self.unit), draw_seed(logits.device)
        # It sees the logits, and so the queries that would lose every key they have.
        masked = place.mask_logits(logits.detach(), self.drop_ratio, seed)
        return torch.where(masked == -torch.inf, logits - RESCUING_SHIFT, logits)

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        return f"drop_ratio={self.drop_ratio:g}, unit={self.unit!r}"

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse ``torch.jit.script``, see ``refuse_script``."""
        refuse_script(self)


def refuse_script(module: nn.Module) -> NoReturn:
    """Say what to do in place of ``torch.jit.script``.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"{type(module).__name__} cannot be scripted: use torch.export.export or, in evaluation, "
        "torch.jit.trace"
    )
