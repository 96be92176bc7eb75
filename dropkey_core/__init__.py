"""DropKey (arXiv 2208.02646): dropout for self-attention that masks keys before the softmax."""

import sys

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{sys.executable} has no torch, which dropkey_core needs: in a clone `make demo` and then "
        "`. .venv/bin/activate`, or pip install ."
    ) from error

from dropkey_core import attention, equip
from dropkey_core.attention import *  # noqa: F403
from dropkey_core.equip import *  # noqa: F403

__version__ = "0.1.0"

__all__ = ["__version__"]
__all__ += attention.__all__
__all__ += equip.__all__
