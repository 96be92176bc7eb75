"""YAML files, found below the working folder or the project, read in bounded time and memory."""

import io
from collections.abc import Iterable
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dropkey_core.engine.errors import UserError, first_line, shown, suggestion
from dropkey_core.engine.files.outside import read_text
from dropkey_core.engine.paths import PROJECT_ROOT

LARGEST_YAML = 2**18  # bytes
DEEPEST_YAML = 20
MOST_REPEATED = 5_000  # lists of references to lists of references ... grow like 3^(n / 3)


def find_yaml(path: str | Path, kind: str, pattern: str) -> Path:
    """Return the file that a command line means: below the working folder or the project's root.

    Args:
        path: as the user wrote it.
        kind: what it is, in one word, for the error.
        pattern: of such files below the project's root.

    Raises:
        UserError: there is none, with the nearest of those there are.
    """
    folders = dict.fromkeys((Path.cwd(), PROJECT_ROOT))
    for folder in folders:
        if (found := folder / Path(path).expanduser()).is_file():
            return found
    here = [str(p.relative_to(PROJECT_ROOT)) for p in PROJECT_ROOT.glob(pattern)]
    where = " or ".join(map(str, folders))
    raise UserError(f"no {kind} {str(path)!r} below {where}{suggestion(str(path), here)}")


def read_yaml(path: Path, sections: Iterable[str]) -> DictConfig:
    """Read a YAML file with a loader that makes plain values only.

    Args:
        path: the file.
        sections: what it may hold, for the error.

    Raises:
        UserError: if it is not YAML, not text, or not a mapping.
    """
    text = read_text(path, LARGEST_YAML)
    try:
        check_structure(text, path)
        config = OmegaConf.load(io.StringIO(text))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # OmegaConf's for a file without keys, and of YAML's tags for numbers, dates and bytes.
        raise UserError(f"{path} is not valid YAML here: {first_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} must be a mapping of the sections {', '.join(sections)}")
    return config


def check_structure(text: str, path: Path) -> None:
    """Refuse YAML that nests or repeats itself as no config does, or is a text, before it is built.

    Raises:
        UserError: it does.
        yaml.YAMLError: it is no YAML.
    """
    anchors: list[str | None] = []  # of the collections that are open: their &name
    counts = [0]  # of the document and of each open collection: its values, references resolved
    sizes: dict[str, int] = {}  # by anchor, of what is closed
    repeated = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            counts.append(1)
            if len(anchors) > DEEPEST_YAML:
                raise UserError(f"{path} nests more than {DEEPEST_YAML} levels deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = anchors.pop(), counts.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
            if not anchors and event.value:
                raise UserError(
                    f"{path} must be a mapping, it is the single value {shown(event.value)}"
                )
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(event.anchor, 0)
            repeated += size
            if repeated > MOST_REPEATED:
                raise UserError(f"{path} repeats more than {MOST_REPEATED} values by *name")
        else:
            continue
        counts[-1] += size
        if anchor:
            sizes[anchor] = size
