"""Links in a set of files: they may lead about in the set, not out of it.

Who has the set elsewhere links its folders; a link from a single file to outside is not the user's
doing but came with the files.
"""

import os
from pathlib import Path

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root


def places_of(*folders: str | os.PathLike[str]) -> tuple[str, ...]:
    """Where files of a set may lie: in its folders and in the dataset root, all links followed."""
    return tuple(os.path.realpath(folder) for folder in (*folders, datasets_root()))


def check_inside(path: str | Path, places: tuple[str, ...]) -> None:
    """Follow the links of a path and see that it leads into one of ``places_of`` its set.

    Raises:
        UserError: it leads elsewhere.
    """
    real = os.path.realpath(path)
    if not any(real == place or real.startswith(place.rstrip(os.sep) + os.sep) for place in places):
        raise UserError(
            f"{path} leads to {real}, which is neither in {places[0]} nor in the dataset root "
            f"{places[-1]}: link the whole folder instead, or set {DATASETS_VARIABLE} to a folder "
            "that holds both"
        )
