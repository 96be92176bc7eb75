"""Paths: the project's root, and the root of the datasets."""

import os
from pathlib import Path

DATASETS_VARIABLE = "DROPKEY_DATASETS"

# The checkout this file belongs to. Where only the library is installed this is site-packages.
PROJECT_ROOT = Path(__file__).resolve().parents[2]


def datasets_root() -> Path:
    """Return the folder that relative data paths start from.

    The environment variable ``DROPKEY_DATASETS`` decides; unset, it is ``./datasets`` of the
    working folder, and where there is none the ``datasets`` folder of the checkout, so that tools
    work from any folder.
    """
    if chosen := os.environ.get(DATASETS_VARIABLE):
        return Path(chosen).expanduser().absolute()
    here = Path("datasets").absolute()
    in_checkout = (PROJECT_ROOT / "tools" / "train_net.py").is_file()
    return here if here.is_dir() or not in_checkout else PROJECT_ROOT / "datasets"


def dataset_path(path: str | os.PathLike[str]) -> Path:
    """Return a path of data as an absolute one.

    A relative one starts at :func:`datasets_root`; if nothing is there, at the working folder.
    """
    path = Path(path).expanduser()
    below_root, here = datasets_root() / path, path.absolute()
    return here if here.exists() and not below_root.exists() else below_root
