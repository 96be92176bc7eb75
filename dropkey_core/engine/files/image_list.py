"""Image files that a command is pointed to, and names for what it makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dropkey_core.engine.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def find_images(places: Sequence[str]) -> list[Path]:
    """Image files: those named, and those that lie in the folders named, in order of name."""
    found = []
    for place in map(Path, places):
        if place.is_dir():
            files = [path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
            found += sorted(files)
        elif place.is_file():
            found.append(place)
        else:
            raise UserError(f"--images: no file or folder {place}")
    if not found:
        raise UserError(
            f"nothing to show: no images in {', '.join(map(str, places))} "
            f"(looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return found


def spread(records: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the records, evenly spread over them, in order."""
    count = min(count, len(records))
    return [records[position * len(records) // count] for position in range(count)]


def unique_stems(paths: Sequence[str]) -> list[str]:
    """File names without suffix; of those that occur again the later ones are numbered."""
    stems: list[str] = []
    for path in paths:
        stem, number = Path(path).stem, 2
        while stem in stems:
            stem = f"{Path(path).stem}_{number}"
            number += 1
        stems.append(stem)
    return stems
