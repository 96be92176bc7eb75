"""The text files of HUMBI's body session: where they lie, how they are read and how written.

    <bundle>/subject_<id>/body/             cameras of the session and one folder per frame
        intrinsic.txt   extrinsic.txt   project.txt
        <frame %08d>/image/image<camera %07d>.jpg
        <frame %08d>/reconstruction/keypoints.txt   smpl_vertex.txt   smpl_parameter.txt

Units are the set's own ("world units"): a fitted mesh divided by its ``scale`` is in metres. A
camera sees the world point X at x = R (X - C), with x to the right, y down and z forward, and on
pixel K x. Everything read is float64, and checked: every error is a ``UserError`` of one line that
names file and line.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dropkey_core.engine import UserError
from dropkey_core.engine.errors import shown
from dropkey_core.engine.files.outside import read_text

NUM_CAMERAS = 107  # ids 0 ... 106
NUM_VERTICES = 6890
NUM_KEYPOINTS = 25  # OpenPose's BODY_25
NUM_PARAMETERS = 86  # scale, translation 3, pose 72, betas 10
HEADER_LINES = 3
LARGEST_FILE = 2**24  # bytes; a mesh of the set has 0.2 million

INTRINSICS, EXTRINSICS, PROJECTIONS = "intrinsic.txt", "extrinsic.txt", "project.txt"
# Calibrations are printed with some six digits: R R^T differs from 1 by no more than this.
ROTATION_TOLERANCE = 1e-3

Array = NDArray[np.float64]
Lines = list[tuple[int, str]]  # with their numbers


@dataclass(frozen=True)
class Camera:
    """One calibrated camera."""

    K: Array  # (3, 3), from camera axes to pixels
    R: Array  # (3, 3) rotation, from world to camera axes
    C: Array  # (3,) its centre, in world units

    def projection(self) -> Array:
        """M = K R [I | -C], (3, 4): from a homogeneous world point to a homogeneous pixel."""
        return self.K @ self.R @ np.column_stack([np.eye(3), -self.C])


@dataclass(frozen=True)
class Fit:
    """SMPL fitted to one frame: vertices = scale * SMPL(pose, betas) + translation."""

    scale: float  # world units per metre
    translation: Array  # (3,) world units, added after scaling
    pose: Array  # (72,) axis-angle in radians, the root's first
    betas: Array  # (10,) shape


# ---- where things lie ----------------------------------------------------------------------------
def body_folder(bundle: Path, subject: int) -> Path:
    """The body session of a subject."""
    return bundle / f"subject_{subject}" / "body"


def frame_folder(body: Path, frame: int) -> Path:
    """A frame of a body session."""
    return body / f"{frame:08d}"


def image_file(body: Path, frame: int, camera: int) -> Path:
    """The full picture that a camera took of a frame."""
    return frame_folder(body, frame) / "image" / f"image{camera:07d}.jpg"


def vertex_file(body: Path, frame: int) -> Path:
    """The fitted mesh of a frame."""
    return frame_folder(body, frame) / "reconstruction" / "smpl_vertex.txt"


def parameter_file(body: Path, frame: int) -> Path:
    """The parameters of a frame's fitted mesh."""
    return frame_folder(body, frame) / "reconstruction" / "smpl_parameter.txt"


def keypoint_file(body: Path, frame: int) -> Path:
    """The triangulated keypoints of a frame."""
    return frame_folder(body, frame) / "reconstruction" / "keypoints.txt"


def frames_of(body: Path) -> list[int]:
    """Numbers of a session's frames that have a folder, in ascending order."""
    return numbered(body, r"\d{8}")


def cameras_of(body: Path, frame: int) -> list[int]:
    """Ids of the cameras whose picture of a frame is there, in ascending order."""
    return numbered(frame_folder(body, frame) / "image", r"image(\d{7})\.jpg")


def numbered(folder: Path, pattern: str) -> list[int]:
    """The numbers in those names in a folder that match the whole pattern; [] if there is none."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    found = (re.fullmatch(pattern, name, re.ASCII) for name in names)
    return sorted(int(match.group(match.lastindex or 0)) for match in found if match)


# ---- reading -------------------------------------------------------------------------------------
def read_vertices(path: Path, num_vertices: int = NUM_VERTICES) -> Array:
    """Read smpl_vertex.txt: (num_vertices, 3), world units, in SMPL's order.

    Raises:
        UserError: another number of rows, a row that is not three finite numbers, no such file.
    """
    return finite(path, table(path, read_lines(path, num_vertices), columns=3))


def read_keypoints(path: Path) -> Array:
    """Read keypoints.txt: (25, 3), world units, OpenPose's BODY_25; further columns are ignored.

    A keypoint that was not found may be NaN.

    Raises:
        UserError: another number of rows, a row that does not begin with three numbers, no such
            file.
    """
    lines = read_lines(path, NUM_KEYPOINTS)
    return table(path, [(number, " ".join(line.split()[:3])) for number, line in lines], columns=3)


def read_fit(path: Path) -> Fit:
    """Read smpl_parameter.txt, 86 numbers.

    Raises:
        UserError: another number of them, one that is not finite, a scale that is not positive, no
            such file.
    """
    values = finite(path, table(path, read_lines(path, NUM_PARAMETERS), columns=1))[:, 0]
    if values[0] <= 0:
        raise UserError(f"{path}, line 1: the scale is {values[0]:g}, it must be above 0")
    return Fit(float(values[0]), values[1:4], values[4:76], values[76:])


def read_cameras(body: Path) -> tuple[dict[int, Camera], list[str]]:
    """Read the cameras of a session from intrinsic.txt and extrinsic.txt.

    A camera whose numbers are all zero in either file is one that was not there: it is left out
    without a word, as in HUMBI's own reader.

    Returns:
        The cameras that can be used by id, and one line for each that is in one file only or has
        numbers that no camera can have.

    Raises:
        UserError: a file is missing or not in this layout.
    """
    K_of = read_blocks(body / INTRINSICS, (3, 3))
    extrinsics_of = read_blocks(body / EXTRINSICS, (4, 3))
    problems = [
        f"{body}: camera {number} is not in both {INTRINSICS} and {EXTRINSICS}"
        for number in sorted(K_of.keys() ^ extrinsics_of.keys())
    ]
    cameras = {}
    for number in sorted(K_of.keys() & extrinsics_of.keys()):
        C, *R = extrinsics_of[number]
        camera = Camera(K_of[number], np.array(R), C)
        if not camera.K.any() or not camera.R.any():
            continue
        if problem := camera_problem(camera):
            problems.append(f"{body}: camera {number} {problem}")
        else:
            cameras[number] = camera
    return cameras, problems


def read_projections(path: Path) -> dict[int, Array]:
    """Read project.txt: M (3, 4) by camera id; see ``Camera.projection``.

    Raises:
        UserError: the file is missing or not in this layout.
    """
    return read_blocks(path, (3, 4))


def camera_problem(camera: Camera) -> str | None:
    """What no camera can have, or None."""
    K, R = camera.K, camera.R
    for name, values in (("K", K), ("R", R), ("C", camera.C)):
        if not np.isfinite(values).all():
            return f"has a {name} that is not finite"
    if not (K[0, 0] > 0 and K[1, 1] > 0) or np.any(K[[1, 2, 2], [0, 0, 1]]) or K[2, 2] != 1:
        return f"has K {K.tolist()}, which is not [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
    error = np.abs(R @ R.T - np.eye(3)).max()
    if not error <= ROTATION_TOLERANCE or np.linalg.det(R) < 0:
        return f"has an R that is no rotation (R R^T differs from 1 by {error:.2g})"
    return None


def read_blocks(path: Path, shape: tuple[int, int]) -> dict[int, Array]:
    """Read a camera file: three header lines, then a line ``0 <id>`` and a few rows per camera.

    Args:
        path: the file.
        shape: rows of a camera, and numbers of a row.

    Returns:
        An array of ``shape`` per camera id. Numbers may be NaN or infinite.

    Raises:
        UserError: a line is not what it should be, a camera is there twice or unknown, or the last
            one is cut short.
    """
    lines = read_lines(path)
    step = 1 + shape[0]
    count, rest = divmod(len(lines) - HEADER_LINES, step)
    if count < 1 or rest:
        raise UserError(
            f"{path} has {len(lines)} lines, not {HEADER_LINES} and {step} for each camera"
        )
    lines = lines[HEADER_LINES:]
    rows = [line for place, line in enumerate(lines) if place % step]
    values = table(path, rows, shape[1]).reshape(-1, *shape)
    blocks: dict[int, Array] = {}
    for (number, line), block in zip(lines[::step], values, strict=True):
        match = re.fullmatch(r"0\s+(\d{1,3})", line.strip(), re.ASCII)
        if match is None or int(match.group(1)) >= NUM_CAMERAS:
            raise UserError(
                f"{path}, line {number} is {shown(line)}, but a camera begins with '0 <id>', an id "
                f"of 0 to {NUM_CAMERAS - 1}"
            )
        if int(match.group(1)) in blocks:
            raise UserError(f"{path}, line {number}: camera {match.group(1)} is there twice")
        blocks[int(match.group(1))] = block
    return blocks


def read_lines(path: Path, count: int | None = None) -> Lines:
    """The lines of a text file, which must be ``count`` if that is given, with their numbers."""
    lines = read_text(path, LARGEST_FILE).rstrip().splitlines()
    if count not in (None, len(lines)):
        raise UserError(f"{path} has {len(lines)} rows, not {count}")
    return list(enumerate(lines, 1))


def table(path: Path, lines: Lines, columns: int) -> Array:
    """Numbers (lines, columns) of lines that all have as many."""
    try:
        # In C, several times as fast as float().
        values = np.loadtxt([line for _, line in lines], comments=None, ndmin=2)
    except ValueError:
        values = np.empty((0, 0))
    if values.shape == (len(lines), columns):
        return values
    number, line = next((one for one in lines if not is_row(one[1], columns)), (1, "no table"))
    raise UserError(f"{path}, line {number} is {shown(line)}, not {columns} numbers")


def is_row(line: str, columns: int) -> bool:
    """Whether a line is so many numbers."""
    try:
        return len([float(word) for word in line.split()]) == columns
    except ValueError:
        return False


def finite(path: Path, values: Array) -> Array:
    """The values (lines, columns) of a file, all finite."""
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise UserError(f"{path}, line {row + 1} is {values[row].tolist()}, which is not finite")
    return values


# ---- writing -------------------------------------------------------------------------------------
def write_cameras(body: Path, cameras: Mapping[int, Camera], num_frames: int) -> None:
    """Write intrinsic.txt, extrinsic.txt and project.txt; numbers are read back to the last bit.

    Args:
        body: the session's folder, which is made if need be.
        cameras: by id.
        num_frames: how many frames the session has, for the header.
    """
    body.mkdir(parents=True, exist_ok=True)
    rows_of = {
        INTRINSICS: lambda camera: camera.K,
        EXTRINSICS: lambda camera: [camera.C, *camera.R],
        PROJECTIONS: Camera.projection,
    }
    header = f"Numcam: {len(cameras)}\nnumframes: {num_frames}\nnumP: {len(cameras)}\n"
    for name, rows in rows_of.items():
        blocks = (f"0 {number}\n{exact_text(rows(cameras[number]))}" for number in sorted(cameras))
        (body / name).write_text(header + "".join(blocks), encoding="ascii")


def write_vertices(path: Path, vertices: NDArray[np.floating]) -> None:
    """Write smpl_vertex.txt or keypoints.txt, points (V, 3) in world units.

    Nine digits, a float32's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, vertices, fmt="%.9g")


def write_fit(path: Path, fit: Fit) -> None:
    """Write smpl_parameter.txt; numbers are read back to the last bit."""
    values = np.concatenate([[fit.scale], fit.translation, fit.pose, fit.betas])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(exact_text(values[:, None]), encoding="ascii")


def exact_text(rows: Sequence[Array] | Array) -> str:
    """Rows of numbers as lines, with the fewest digits that stand for them exactly."""
    return "".join(" ".join(map(repr, map(float, row))) + "\n" for row in rows)
