"""What every project trains and evaluates with."""

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.paths import dataset_path

__all__ = ["UserError", "dataset_path"]
