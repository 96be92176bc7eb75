"""The readers that are fuzzed: what they start from, how it is changed, what they promise."""

import contextlib
import io
import json
import math
import pickle
import re
import shutil
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import convert_voc
import msgspec
import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from scipy import sparse

from dropkey_core.engine import UserError, checkpoint, config, inference
from dropkey_core.engine.files import arrays as array_file
from dropkey_core.engine.files import images as image_file
from dropkey_core.engine.files import json_file
from projects.detr import annotation_file, coco
from projects.metro.body import inert_pickle
from projects.metro.body import release as smpl_release
from projects.metro.body.skeleton import SMPL_PARENTS
from projects.metro.humbi import files as humbi_files
from projects.metro.humbi import records as humbi
from projects.paper.tables import reading
from projects.qpic import classes, interaction_file, mat_file
from projects.qpic import prepare as hico_det_release
from tests.fuzz.archive_inputs import mutate_archive
from tests.fuzz.byte_inputs import mutate_bytes
from tests.fuzz.image_inputs import mutate_image
from tests.fuzz.number_inputs import ODD_NUMBERS, mutate_numbers
from tests.fuzz.pickle_inputs import mutate_pickle
from tests.fuzz.tree_inputs import mutate_json, mutate_yaml
from tests.projects.metro import smpl_like

TOY = Path(__file__).parents[1] / "toy"
PLAIN = (bool, int, float, str, bytes, bytearray, type(None))


@dataclass
class Target:
    """A reader.

    Attributes:
        name: of the file that the inputs are written to.
        sound: sound inputs.
        mutate: a changed input of an input.
        read: reads the file; asserts what the reader promises of what it accepts.
        seconds: of processor time that one input may take.
        megabytes: of memory that one input may take.
        may_import: whether reading may import modules, as a config's does to check signatures.
        names_file: whether refusals name the file; a config's name the key.
        write: puts an input where ``read`` finds it.
    """

    name: str
    sound: list[bytes]
    mutate: Callable[[bytes, Random], bytes]
    read: Callable[[Path], Any]
    seconds: float = 2.0
    megabytes: int = 100
    may_import: bool = False
    names_file: bool = True
    write: Callable[[Path, bytes], Any] = Path.write_bytes


def prepare(folder: Path) -> None:
    """Put beside the inputs what readers look for there."""
    (folder / "images").mkdir()
    for name, size in (("a.jpg", (60, 40)), ("b.jpg", (30, 50))):
        Image.new("L", size).save(folder / "images" / name)
    for name in ("toy.yaml", "toys.yaml", "toy_experiment.py"):
        shutil.copy(TOY / name, folder)


def as_json(*documents: Any) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


def written(write: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
    """What a function writes into a file that it is given as its last argument."""
    file = io.BytesIO()
    write(*arguments, file, **options)
    return file.getvalue()


def parts_of(value: Any) -> Iterator[Any]:
    """All values in a nest of containers, each once, but for plain ones."""
    seen, todo = set(), [value]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, PLAIN):
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, dict):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
        elif isinstance(value, Namespace):
            todo += vars(value).values()
        elif isinstance(value, inert_pickle.Inert):
            todo += [value.arguments, value.state]


# ---- annotations ---------------------------------------------------------------------------------
COCO = {
    "categories": [{"id": 7, "name": "ship"}, {"id": 2, "name": "tree"}],
    "images": [
        {"id": 11, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 5, "file_name": "b.jpg", "height": 50, "width": 30},
    ],
    "annotations": [
        {"id": n, "image_id": 11, "category_id": 7, "bbox": box, "iscrowd": n % 2}
        for n, box in enumerate(([5, 6, 20, 10], [0.5, 0, 60, 40], [-5, -5, 10, 10]))
    ],
}
OFFICIAL = [{"id": n, "name": f"n{n}"} for n in sorted(coco.COCO_CATEGORY_IDS)]


def read_coco(path: Path) -> None:
    document = annotation_file.read_annotation_file(path)
    ids = {
        section: [entry.id for entry in getattr(document, section)]
        for section in ("categories", "images")
    }
    assert all(len(set(found)) == len(found) for found in ids.values())
    assert {a.image_id for a in document.annotations} <= set(ids["images"])
    assert {a.category_id for a in document.annotations} <= set(ids["categories"])
    count = coco.num_classes(path)
    records = coco.load_coco(path.parent / "images", path, same_categories_as=path)
    assert len(records) == len(document.images)
    for record in records:
        assert Path(record["file_name"]).name in ("a.jpg", "b.jpg")
        assert type(record["height"]) is type(record["width"]) is int
        for annotation in record["annotations"]:
            assert np.isfinite(annotation["bbox"]).tolist() == [True] * 4
            assert 0 <= annotation["category_id"] < count
            assert annotation["iscrowd"] in (0, 1)


CLASSES = {
    "objects": [{"id": 1, "name": "person"}, {"id": 4, "name": "kite"}, {"id": 9, "name": "dog"}],
    "verbs": [{"id": 3, "name": "fly"}, {"id": 5, "name": "hold"}],
    "triplets": [[1, 0], [1, 1], [2, 1]],
    "rare_triplets": [[2, 1]],
}


def read_classes(path: Path) -> None:
    found = classes.read_classes(path)
    valid = found.validity()
    assert valid.shape == (len(found.verb_names), len(found.object_names))
    assert valid.sum() == len(found.triplets) == len(set(found.triplets))
    assert set(found.rare_triplets) | set(found.non_rare_triplets) == set(found.triplets)
    assert found.object_names[found.person] == "person"


HICO = "HICO_train2015_00000001.jpg"
INTERACTIONS = {
    "file_name": HICO,
    "height": 40,
    "width": 60,
    "annotations": [
        {"bbox": [1, 2, 30, 40], "category_id": 1},
        {"bbox": [5.5, 6, 20, 10], "category_id": 4},
    ],
    "hoi_annotation": [
        {"subject_id": 0, "object_id": 1, "category_id": 3},
        {"subject_id": 0, "object_id": -1, "category_id": 5},
    ],
}
NO_INTERACTIONS = {"file_name": "b.jpg", "annotations": [], "hoi_annotation": []}


def read_interactions(path: Path) -> None:
    known = msgspec.convert(CLASSES, classes.InteractionClasses)
    for number, record in enumerate(interaction_file.read_interactions(path, known)):
        assert record["image_id"] == number
        assert isinstance(record["file_name"], str)
        boxes = torch.tensor(record["boxes_xyxy"], dtype=torch.float64)
        assert len(boxes) == len(record["labels"])
        assert all(label in (0, 1, 2) for label in record["labels"])
        for subject, object_, verb in record["hois"]:
            assert 0 <= subject < len(boxes) > object_ >= -1
            assert verb in (0, 1)


BOX = {"x1": 1, "y1": 2, "x2": 30, "y2": 40}
HOI = {"id": 1, "bboxhuman": BOX, "bboxobject": BOX, "connection": [[1, 1]], "invis": 0}
OF_MAT = {"filename": HICO, "size": {"width": 60, "height": 40, "depth": 3}, "hoi": HOI}
MAT = {
    "bbox_train": OF_MAT,
    "bbox_test": OF_MAT | {"filename": HICO.replace("train", "test")},
    "list_action": {"nname": "airplane", "vname": "board"},
}
CORRESPONDENCE = np.eye(117, 80, dtype=np.int8)


def read_release(path: Path) -> None:
    found = hico_det_release.read_release([path], 0.5)
    json.dumps(found.entries)  # what prepare_hico_det.py writes
    assert all("\n" not in problem and len(problem) < 1000 for problem in found.problems)
    for entries in found.entries.values():
        list(hico_det_release.odd_boxes(entries))
        for entry in entries:
            boxes = torch.tensor([a["bbox"] for a in entry["annotations"]], dtype=torch.float64)
            for hoi in entry["hoi_annotation"]:
                assert hoi["subject_id"] < len(boxes) > hoi["object_id"] >= -1
                assert 1 <= hoi["category_id"] <= 117


def read_mat(path: Path) -> None:
    """What comes after the conversion to JSON, which has its own process and tests."""

    def converted(path: Path, names: list[str]) -> dict:
        document = json_file.read_json(path)
        return document if isinstance(document, dict) else {}  # variables by name, always

    with patch.object(mat_file, "read_mat", converted):
        read_release(path)


# ---- configs and tables --------------------------------------------------------------------------
SMALL_CONFIG = b"""
model: {_target_: toy_experiment.ToyModel, width: 8, activation: relu}
optimizer:
  _target_: dropkey_core.engine.ClippedAdamW
  params: {_target_: dropkey_core.engine.param_groups, base_lr: "${optimizer.lr}"}
  lr: 1.0e-2
lr_multiplier: {_target_: dropkey_core.engine.StepMultiplier, milestones: [0.6667]}
dataloader:
  evaluator: {_target_: toy_experiment.ToyEvaluator}
train: {output_dir: output, max_iter: 12, amp: {enabled: false}, ddp: {}, seed: 1}
#override model.width=4
#override train.max_iter=3
"""
SMALL_TABLE = b"""
title: Toys
source: a paper.
metrics: [{name: AP, label: AP, digits: 3}]
seeds: {full: [0, 1]}
setups: {toy: {full: {config: toy.yaml, overrides: [train.max_iter=4]}}}
rows:
  - {id: a, label: a, setup: toy, paper: {AP: -0.5}}
  - {id: b, label: b, same_as: toys/none}
"""
CONFIGS = [SMALL_CONFIG] * 9 + [(TOY / "toy.yaml").read_bytes()]  # mostly what is fast
TABLES = [SMALL_TABLE.replace(b"toys/none", b"a")] * 9 + [SMALL_TABLE]


def read_config(path: Path) -> None:
    lines = path.read_bytes().decode(errors="replace").splitlines()
    overrides = [line.removeprefix("#override ") for line in lines if line.startswith("#override ")]
    found = config.load_config(path, overrides)
    assert set(config.REQUIRED_SECTIONS) <= found.keys() <= set(config.SECTIONS)
    assert isinstance(found.train.max_iter, int)
    assert isinstance(found.train.output_dir, str)


def read_table(path: Path) -> None:
    found = reading.read_table(path)
    assert len(found.rows) == len({row.id for row in found.rows})
    for row in found.rows:
        assert bool(row.setup) + bool(row.same_as) + bool(row.left_out) == 1
        assert "/" not in row.id


# ---- VOC's XML -----------------------------------------------------------------------------------
VOC = """<annotation>
<size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>ship</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>9</xmax><ymax>30</ymax></bndbox></object>
</annotation>"""


def mutate_xml(data: bytes, random: Random) -> bytes:
    """Another number in an element, or other bytes."""
    numbers = list(re.finditer(rb"(?<=>)[\d.]+(?=<)", data))
    if not numbers or random.random() < 0.5:
        return mutate_bytes(data, random)
    found = random.choice(numbers)
    return data[: found.start()] + random.choice(ODD_NUMBERS).encode() + data[found.end() :]


def read_voc(path: Path) -> None:
    found = convert_voc.read_voc(path)
    assert min(found.width, found.height) >= 1
    for item in found.objects:
        assert item.name
        assert all(math.isfinite(corner) for corner in item.corners)
    convert_voc.coco_document({"a.jpg": found}, list({o.name for o in found.objects}), True)


# ---- HUMBI's text files --------------------------------------------------------------------------
HEADER = "Numcam: 2\nnumframes: 1\nnumP: 2\n"
INTRINSICS = HEADER + "0 3\n900 0 320\n0 800 240\n0 0 1\n0 7\n1000 0 10\n0 1000 20\n0 0 1\n"
EXTRINSICS = HEADER + "0 3\n1 2 3\n1 0 0\n0 1 0\n0 0 1\n0 7\n-4 0 0\n0 0 1\n0 1 0\n-1 0 0\n"
PROJECTIONS = HEADER + "0 3\n1 2 3 4\n5 6 7 8\n9 10 11 12\n0 7\n1 0 0 4\n0 1 0 3\n0 0 1 0.5\n"
SEPARATOR = "=\n"  # between the two files that cameras are read from


def numbers(count: int, columns: int) -> list[bytes]:
    values = np.random.default_rng(0).normal(size=(count, columns)).tolist()
    values[0][0] = 1.5  # a fit's scale
    lines = ("".join(f"{number:.9g} " for number in row) + "\n" for row in values)
    return ["".join(lines).encode()]


def read_vertices(path: Path) -> None:
    vertices = humbi_files.read_vertices(path, num_vertices=12)
    assert (vertices.shape, vertices.dtype) == ((12, 3), np.float64)
    assert np.isfinite(vertices).all()


def read_keypoints(path: Path) -> None:
    keypoints = humbi_files.read_keypoints(path)
    assert (keypoints.shape, keypoints.dtype) == ((25, 3), np.float64)


def read_fit(path: Path) -> None:
    fit = humbi_files.read_fit(path)
    assert 0 < fit.scale < math.inf
    assert [len(part) for part in (fit.translation, fit.pose, fit.betas)] == [3, 72, 10]
    assert all(np.isfinite(part).all() for part in (fit.translation, fit.pose, fit.betas))


def write_cameras(path: Path, data: bytes) -> None:
    intrinsics, _, extrinsics = data.partition(SEPARATOR.encode())
    path.write_bytes(data)
    (path.parent / humbi_files.INTRINSICS).write_bytes(intrinsics)
    (path.parent / humbi_files.EXTRINSICS).write_bytes(extrinsics)


def read_cameras(path: Path) -> None:
    cameras, problems = humbi_files.read_cameras(path.parent)
    assert all("\n" not in problem and len(problem) < 1000 for problem in problems)
    for number, camera in cameras.items():
        assert 0 <= number < humbi_files.NUM_CAMERAS
        assert all(np.isfinite(part).all() for part in (camera.K, camera.R, camera.C))
        np.testing.assert_allclose(camera.R @ camera.R.T, np.eye(3), atol=2e-3)
        assert camera.K[0, 0] > 0 < camera.K[1, 1]


def read_projections(path: Path) -> None:
    for number, matrix in humbi_files.read_projections(path).items():
        assert 0 <= number < humbi_files.NUM_CAMERAS
        assert matrix.shape == (3, 4)


def read_subjects(path: Path) -> None:
    found = humbi.read_subjects(path)
    assert len(found) == len(set(found)) > 0
    assert all(type(subject) is int and 0 <= subject < 10**9 for subject in found)


# ---- pickles -------------------------------------------------------------------------------------
VALUES = {
    "a": np.arange(3.0),
    "o": np.array([[1], "b"], object),
    "m": sparse.csc_matrix(np.eye(2)),
    "s": {1, 2},
    "d": OrderedDict(a=(1, None, True)),
    "n": np.float64(3),
    "b": [b"xy", "é", 2**70, 1.5, {}],
}


def read_pickle(path: Path) -> None:
    for value in parts_of(inert_pickle.read_pickle(path.read_bytes(), path)):
        assert type(value) in (list, tuple) or isinstance(value, dict | inert_pickle.Inert)
        for convert in (inert_pickle.as_array, inert_pickle.as_objects):
            with contextlib.suppress(UserError):
                convert(value, "part")


V = 8  # vertices of a small body
SMALL_LAYOUT = {
    "v_template": ("f", (V, 3)),
    "f": ("i", (12, 3)),
    "shapedirs": ("f", (V, 3, "S")),
    "posedirs": ("f", (V, 3, 9)),
    "J_regressor": ("f", (24, V)),
    "kintree_table": ("i", (2, 24)),
    "weights": ("f", (V, 24)),
}
small_smpl = patch.multiple(smpl_release, SMPL_LAYOUT=SMALL_LAYOUT, V=V, COARSE_SIZES=(4, 2))
SIZES = {name: [12 if n == "S" else n for n in shape] for name, (_, shape) in SMALL_LAYOUT.items()}
SMPL = {name: np.arange(math.prod(s)).reshape(s) / 100 for name, s in SIZES.items()}
SMPL["f"] = np.arange(36, dtype=np.uint32).reshape(12, 3) % V
SMPL["kintree_table"] = np.array([SMPL_PARENTS, range(24)]).astype(np.uint32)


def smpl_files() -> list[bytes]:
    with patch.object(smpl_like, "V", V):
        pickles = [smpl_like.chumpy_pickle(SMPL, protocol) for protocol in (0, 2, 4, 5)]
    return [*pickles, pickle.dumps(OrderedDict(SMPL), 2), smpl_like.npz_of(**SMPL)]


def read_smpl(path: Path) -> None:
    with small_smpl:
        found = smpl_release.read_smpl(path)
        assert found.keys() == SMALL_LAYOUT.keys()
        assert all(np.isfinite(array).all() for array in found.values())
        smpl_release.parents_of(found["kintree_table"], path)


def mesh_file() -> bytes:
    down = [sparse.csc_matrix(np.eye(n)[::2]) for n in (8, 4)]
    coarse = [np.arange(9).reshape(3, 3) % n for n in (4, 2)]
    object_array = smpl_like.object_array
    return smpl_like.npz_of(D=object_array(down), F=object_array([SMPL["f"], *coarse]))


def read_meshes(path: Path) -> None:
    with small_smpl:
        meshes = smpl_release.read_coarse_meshes(path, SMPL["f"])
    for (vertices, triangles), count in zip(meshes, (4, 2), strict=True):
        assert len(vertices) == count
        assert ((vertices >= 0) & (vertices < V)).all()
        assert triangles.shape == (len(triangles), 3)
        assert triangles.dtype.kind in "iu"
        assert ((triangles >= 0) & (triangles < count)).all()


def read_regressor(path: Path) -> None:
    with small_smpl:
        found = smpl_release.read_h36m_regressor(path)
    assert found.shape == (17, V)
    assert np.isfinite(found).all()


# ---- the engine's files --------------------------------------------------------------------------
CHECKPOINT = {
    "model": OrderedDict(a=torch.ones(2, 3), b=torch.arange(3), c=torch.ones(2).half().t()),
    "optimizer": {"state": {0: {"step": 1, "x": [0.5, None, True, "é"]}}},
    "args": Namespace(lr=1e-4, names=["a"]),
}
CHECKPOINTS = [
    written(torch.save, CHECKPOINT, _use_new_zipfile_serialization=zipped)
    for zipped in (True, False)
]


def read_checkpoint(path: Path) -> None:
    found = checkpoint.read_checkpoint(path)
    assert isinstance(found, dict)
    list(parts_of(found))


OWN_CONFIG = """
model: {_target_: projects.classification.build_model, num_classes: 10, variants: {reattention: {}}}
dataset: {test: {annotations: a.json}}
dataloader:
  test:
    mapper: {_target_: projects.classification.ClassificationMapper, training: false}
train: {device: cpu}
"""


def read_own_config(path: Path) -> None:
    content = {"config": path.read_bytes().decode(errors="replace")}
    found = OmegaConf.to_container(inference.own_config(content, str(path), ()))
    called = [value for key, value in inference.values_in(found) if key == "_target_"]
    assert called and all(map(inference.is_public, called))


LAYOUT = {"points": ("f", ("N", 2)), "labels": ("i", ("N",)), "names": ("U", ("K",))}
POINTS = {"points": np.arange(6.0).reshape(3, 2), "labels": np.array([0, 1, 1], np.uint8)}
ARRAYS = smpl_like.npz_of(**POINTS, names=np.array(["cat", "dog"]))


def read_arrays(path: Path) -> None:
    arrays = array_file.read_arrays(path, LAYOUT)
    problem = array_file.layout_problem(arrays, LAYOUT)
    if problem is not None:
        assert len(problem) < 1000
        return
    assert arrays["points"].shape == (len(arrays["labels"]), 2)
    assert np.isfinite(arrays["points"]).all()


def image_files() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    colour, deep = Image.fromarray(pixels), Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        *((colour, kind, {}) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")),
        *((colour, kind, {"exif": exif}) for kind in ("JPEG", "PNG")),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour.convert("CMYK"), "JPEG", {}),
        *((colour.convert(mode), "PNG", {}) for mode in ("RGBA", "P")),
        (colour.convert("L"), "JPEG", {"progressive": True}),
        (deep, "PNG", {}),
    ]
    return [written(image.save, format=kind, **options) for image, kind, options in kinds]


def read_image(path: Path) -> None:
    found = image_file.read_image(path)
    assert (found.dtype, found.ndim, len(found)) == (torch.uint8, 3, 3)
    assert found.numel() > 0


TARGETS = {
    "coco": Target(
        "annotations.json", as_json(COCO, COCO | {"categories": OFFICIAL}), mutate_json, read_coco
    ),
    "interactions": Target(
        "interactions.json", as_json([INTERACTIONS, NO_INTERACTIONS]), mutate_json,
        read_interactions,
    ),
    "classes": Target("classes.json", as_json(CLASSES), mutate_json, read_classes),
    "release": Target("release.json", as_json([INTERACTIONS]), mutate_json, read_release),
    "release_mat": Target("anno_bbox.mat", as_json(MAT), mutate_json, read_mat),
    "release_npy": Target(
        "corre.npy", [smpl_like.npy(CORRESPONDENCE)], mutate_archive, read_release
    ),
    "config": Target(
        "config.yaml", CONFIGS, mutate_yaml, read_config, may_import=True, names_file=False
    ),
    "table": Target("table.yaml", TABLES, mutate_yaml, read_table, may_import=True),
    "voc": Target("a.xml", [VOC.encode()], mutate_xml, read_voc),
    "vertices": Target("vertex.txt", numbers(12, 3), mutate_numbers, read_vertices),
    "keypoints": Target("keypoints.txt", numbers(25, 4), mutate_numbers, read_keypoints),
    "fit": Target("parameter.txt", numbers(86, 1), mutate_numbers, read_fit),
    "cameras": Target(
        "cameras", [(INTRINSICS + SEPARATOR + EXTRINSICS).encode()], mutate_numbers, read_cameras,
        write=write_cameras,
    ),
    "projections": Target("project.txt", [PROJECTIONS.encode()], mutate_numbers, read_projections),
    "subjects": Target(
        "subjects.txt", [b"3\n12\n\n407\n5\n", "\ufeff1\r\n2\r\n".encode()], mutate_numbers,
        read_subjects,
    ),
    "pickle": Target(
        "data.pkl", [pickle.dumps(VALUES, protocol) for protocol in range(6)], mutate_pickle,
        read_pickle,
    ),
    "smpl": Target("smpl.pkl", smpl_files(), mutate_archive, read_smpl),
    "meshes": Target("meshes.npz", [mesh_file()], mutate_archive, read_meshes),
    "regressor": Target(
        "regressor.npy", [smpl_like.npy(np.full((17, V), 1 / V))], mutate_archive, read_regressor
    ),
    "checkpoint": Target("checkpoint.pt", CHECKPOINTS, mutate_archive, read_checkpoint),
    "own_config": Target(
        "config.yaml", [OWN_CONFIG.encode()], mutate_yaml, read_own_config, may_import=True,
        names_file=False,
    ),
    "arrays": Target("arrays.npz", [ARRAYS], mutate_archive, read_arrays),
    "image": Target(
        "image.png", image_files(), mutate_image, read_image, 4.0, 1500, may_import=True
    ),
}  # fmt: skip
