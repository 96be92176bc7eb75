"""Finding and reading YAML files safely: plain values only, none that references multiply."""

import io
from collections.abc import Iterable
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.errors import UserError, shown, suggestion
from dropkey_core.engine.files.outside import read_text, reading
from dropkey_core.engine.paths import PROJECT_ROOT

LARGEST_YAML = 2**18  # bytes
MOST_VALUES = 10_000  # references written out; a table has 1,600, OmegaConf reads 3,000 a second


def find_yaml(path: str | Path, kind: str, pattern: str) -> Path:
    """Return the file that a command line means: below the working folder or the project's root.

    Args:
        path: as the user wrote it.
        kind: what it is, for the error.
        pattern: of such files below the project's root.

    Raises:
        UserError: there is none; the nearest of those there are is named.
    """
    folders = dict.fromkeys((Path.cwd(), PROJECT_ROOT))
    for folder in folders:
        if (found := folder / Path(path).expanduser()).is_file():
            return found
    here = [str(p.relative_to(PROJECT_ROOT)) for p in PROJECT_ROOT.glob(pattern)]
    where = " or ".join(map(str, folders))
    raise UserError(f"no {kind} {str(path)!r} below {where}{suggestion(str(path), here)}")


def read_yaml(path: Path, sections: Iterable[str]) -> DictConfig:
    """Read a YAML file of plain values.

    Raises:
        UserError: it is not YAML, not text, or no mapping; ``sections`` says of what.
    """
    text = read_text(path, LARGEST_YAML)
    with reading(path, "YAML"):
        check_structure(text, path)
        config = OmegaConf.load(io.StringIO(text))
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} must be a mapping of the sections {', '.join(sections)}")
    return config


def check_structure(text: str, source: object) -> None:
    """Refuse YAML that is small as text and large as values, before they are built.

    Lists of *references to lists of references (the "billion laughs") grow like 3^(n / 3), and
    OmegaConf parses a text that is a single value once more.

    Raises:
        UserError: it is such a text; ``source`` names it.
        yaml.YAMLError: it is no YAML.
    """
    sizes: dict[int, int] = {}  # of each node: its values, references written out

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 1  # as which it counts within itself
            parts = [] if isinstance(node, yaml.ScalarNode) else node.value
            pairs = (part if isinstance(part, tuple) else (part,) for part in parts)
            sizes[id(node)] += sum(size(inner) for pair in pairs for inner in pair)
        return sizes[id(node)]

    top = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(top, yaml.ScalarNode) and top.value:
        raise UserError(f"{source} must be a mapping, it is the single value {shown(top.value)}")
    if top is not None and size(top) > MOST_VALUES:
        raise UserError(f"{source} has {size(top):,} values, {MOST_VALUES:,} are allowed")
