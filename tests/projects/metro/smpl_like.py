"""Files like SMPL's and METRO's, of made-up numbers: what tests of the conversion read."""

import io
import pickle
import sys
import types
import zipfile
from unittest.mock import patch

import numpy as np
from scipy import sparse

from projects.metro.body.model import Body
from projects.metro.body.skeleton import SMPL_PARENTS

V, COARSE = 6890, (1723, 431)


def smpl_arrays():
    """SMPL's arrays by SMPL's names; numbers that tell elements apart."""
    generator = np.random.default_rng(0)
    regressor = np.zeros((24, V))
    regressor[np.arange(24)[:, None], 100 * np.arange(24)[:, None] + [0, 1, 2]] = [0.5, 0.25, 0.25]
    weights = np.zeros((V, 24))
    weights[np.arange(V), np.arange(V) % 24] = 1
    table = np.array([SMPL_PARENTS, range(24)]).astype(np.uint32)  # the root's parent: 4294967295
    return {
        "v_template": generator.normal(size=(V, 3)),
        "f": np.arange(3 * 13776, dtype=np.uint32).reshape(-1, 3) % V,
        "shapedirs": generator.normal(size=(V, 3, 12)),  # newer files have up to 300
        "posedirs": np.arange(V * 3 * 207).reshape(V, 3, 207) / 1e6,
        "J_regressor": regressor,
        "kintree_table": table,
        "weights": weights,
    }


def body():
    """A body of SMPL's sizes."""
    arrays = smpl_arrays()
    kept = np.arange(COARSE[0]), np.arange(COARSE[1])
    return Body(
        template=arrays["v_template"],
        faces=arrays["f"].astype(np.int32),
        shape_directions=arrays["shapedirs"][:, :, :10],
        pose_directions=arrays["posedirs"] / 1000,
        joint_regressor=arrays["J_regressor"],
        parents=np.array(SMPL_PARENTS),
        skin_weights=arrays["weights"],
        h36m_regressor=arrays["J_regressor"][:17],
        coarse_vertices_1=kept[0],
        coarse_faces_1=kept[0][None, :3],
        coarse_vertices_2=kept[1],
        coarse_faces_2=kept[1][None, :3],
    )


def chumpy_pickle(arrays, protocol):
    """The bytes of a pickle as SMPL's: chumpy objects and a sparse regressor among arrays."""
    modules = {
        name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")
    }

    def made(module, name, **state):
        """An object of a class like chumpy's, which is there while the pickle is written."""
        kind = vars(modules[module]).setdefault(name, type(name, (), {"__module__": module}))
        found = kind()
        vars(found).update(state)
        return found

    def holding(array):
        besides = {"_dirty_vars": {"x"}, "_itr": None, "_cache": {"drs": {}}}
        return made("chumpy.ch", "Ch", x=array, **besides)

    shape = arrays["shapedirs"].shape
    whole = np.concatenate([arrays["shapedirs"], np.ones((V, 3, 2))], axis=2)
    chosen = np.arange(whole.size).reshape(whole.shape)[:, :, : shape[2]].ravel()
    select = {"a": holding(whole), "idxs": chosen, "preferred_shape": shape}
    document = {
        **arrays,
        "v_template": holding(arrays["v_template"]),
        "posedirs": holding(np.asfortranarray(arrays["posedirs"])),
        "shapedirs": made("chumpy.reordering", "Select", **select),
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
        "bs_type": "lrotmin",
        "pose_training_info": {"count": np.float64(3)},
    }
    with patch.dict(sys.modules, modules):
        return pickle.dumps(document, protocol=protocol)


def npz_of(**objects):
    """The bytes of an .npz whose members are arrays, or what a .npy is written from as it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in objects.items():
            archive.writestr(f"{name}.npy", value if isinstance(value, bytes) else npy(value))
    return file.getvalue()


def npy(array):
    """The bytes of an array's .npy."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def object_array(values):
    """A one-dimensional array of objects."""
    found = np.empty(len(values), object)
    found[:] = values
    return found


def object_npy(pickled):
    """The bytes of a .npy of objects with this pickle in it."""
    header = npy(object_array([None]))
    return header[: header.index(b"\n") + 1] + pickled


def downsampling(faces, **changes):
    """METRO's ``mesh_downsampling.npz`` for a mesh, as bytes; members may be exchanged by name."""
    selections = []
    for more, fewer in zip((V, *COARSE), COARSE, strict=False):
        chosen = 3 * np.arange(fewer)  # every third vertex
        ones = np.ones(fewer)
        selections.append(sparse.csc_matrix((ones, (np.arange(fewer), chosen)), (fewer, more)))
    coarse = [np.arange(3 * (2 * n - 4)).reshape(-1, 3) % n for n in COARSE]
    members = {
        "D": object_array(selections),
        "F": object_array([faces, *coarse]),
        "M": object_npy(b"cpsbody.mesh\nMesh\n."),  # needs a package nobody has: must not be read
    }
    return npz_of(**{**members, **changes})
