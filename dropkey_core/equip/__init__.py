"""DropKey for models that exist: find their attention, equip it in place, and undo it."""

from dropkey_core.equip.apply import (
    apply_dropkey,
    remove_dropkey,
    set_drop_ratio,
    set_inference,
)
from dropkey_core.equip.check import check_dropkey

__all__ = ["apply_dropkey", "check_dropkey", "remove_dropkey", "set_drop_ratio", "set_inference"]
