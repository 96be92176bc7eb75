"""Convert the SMPL file you have into a plain .npz that this project reads.

    python datasets/convert_body_model.py basicModel_neutral_lbs_10_207_0_v1.0.0.pkl

Beside it, or named by the options, lie METRO's J_regressor_h36m_correct.npy and
mesh_downsampling.npz (https://github.com/microsoft/MeshTransformer, metro/modeling/data).
No chumpy is needed: pickles are read as data, and what is not an array is refused by its name.
SMPL's licence stays in force: what is written here may not be passed on.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dropkey_core.engine.command import exit_code
from dropkey_core.engine.paths import datasets_root
from projects.metro.body.model import write_body
from projects.metro.body.release import DOWNSAMPLING_FILE, H36M_FILE, read_release


def convert(smpl: Path, h36m_regressor: Path, mesh_downsampling: Path, output: Path) -> None:
    """Convert the files and print what was found.

    Raises:
        UserError: a file cannot be used.
    """
    body = read_release(smpl, h36m_regressor, mesh_downsampling)
    write_body(output, body, f"SMPL, converted from {smpl.name}")
    coarse = " and ".join(f"{len(kept):,}" for kept in body.coarse_vertices)
    tall = np.ptp(body.template[:, 1])
    print(
        f"{output}: written; {len(body.template):,} vertices, {len(body.faces):,} faces, coarse "
        f"meshes of {coarse} vertices; the template is {tall:.2f} m tall"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, type=Path)
    add("smpl", help="SMPL's .pkl, or an .npz of its arrays")
    add("--h36m-regressor", help=f"default: {H36M_FILE} beside the SMPL file")
    add("--mesh-downsampling", help=f"default: {DOWNSAMPLING_FILE} beside the SMPL file")
    add("--output", help="default: body/smpl_neutral.npz below the dataset root")
    arguments = parser.parse_args(argv)
    smpl = arguments.smpl.absolute()
    regressor = arguments.h36m_regressor or smpl.with_name(H36M_FILE)
    downsampling = arguments.mesh_downsampling or smpl.with_name(DOWNSAMPLING_FILE)
    output = (arguments.output or datasets_root() / "body/smpl_neutral.npz").absolute()
    return exit_code(lambda: convert(smpl, regressor.absolute(), downsampling.absolute(), output))


if __name__ == "__main__":
    sys.exit(main())
