"""DropKey (arXiv 2208.02646): dropout for self-attention that masks keys before the softmax."""

from dropkey_core.attention import *  # noqa: F403
from dropkey_core.attention import __all__ as __all__
