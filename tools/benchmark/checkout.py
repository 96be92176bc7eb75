"""Code of an official repository, loaded from a user's checkout to be measured against."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

from dropkey_core.engine.errors import UserError


def file_of_checkout(checkout: str | os.PathLike[str], repository: str, file: str) -> Path:
    """Return the absolute path of a file of a checkout.

    Raises:
        UserError: ``checkout`` has no such file, so it is no checkout of ``repository``.
    """
    path = Path(checkout).expanduser().absolute() / file
    if not path.is_file():
        raise UserError(f"{checkout} is no checkout of {repository}: no {file}")
    return path


def load_file(path: Path) -> ModuleType:
    """Import a module by its path, without the package around it, which may need more."""
    spec = importlib.util.spec_from_file_location(f"official_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
