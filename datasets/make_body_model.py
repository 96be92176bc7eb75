"""Make a free body model of SMPL's format: a neutral mannequin.

    python datasets/make_body_model.py

It has SMPL's 6,890 vertices, 24 joints, 10 shapes and 207 pose correctives, and METRO's coarser
meshes and Human3.6M's joints, so that whatever runs on SMPL runs on it. Its vertices are not
SMPL's: meshes, parameters and weights that belong to the one mean nothing to the other.
The same version gives the same body, and asking again where it is there does nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mannequin import make_mannequin

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.paths import datasets_root
from projects.metro.body.model import read_body, read_origin, write_body

ORIGIN = "mannequin made by datasets/make_body_model.py, version 1"  # raise it with every change


def make(output: Path) -> None:
    """Write the mannequin, unless it is there.

    Raises:
        UserError: there is something else.
    """
    if output.exists():
        if read_origin(output) != ORIGIN:
            raise UserError(f"{output} holds another body; delete it or choose another --output")
        read_body(output)
        print(f"{output}: already there")
        return
    write_body(output, make_mannequin(), ORIGIN)
    print(f"{output}: written")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--output", type=Path, help="default: body/mannequin.npz below the dataset root"
    )
    output = parser.parse_args(argv).output or datasets_root() / "body/mannequin.npz"
    return exit_code(lambda: make(output.absolute()))


if __name__ == "__main__":
    sys.exit(main())
