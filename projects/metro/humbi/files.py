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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dropkey_core.engine import UserError
from dropkey_core.engine.files.outside import read_file

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


@dataclass(frozen=True)
class Camera:
    """One calibrated camera.

    Attributes:
        K: (3, 3), from camera axes to pixels.
        R: (3, 3) rotation, from world to camera axes.
        C: (3,) its centre, in world units.
    """

    K: Array
    R: Array
    C: Array

    def projection(self) -> Array:
        """M = K R [I | -C], (3, 4): from a homogeneous world point to a homogeneous pixel."""
        return self.K @ self.R @ np.column_stack([np.eye(3), -self.C])


@dataclass(frozen=True)
class Fit:
    """SMPL fitted to one frame: vertices = scale * SMPL(pose, betas) + translation.

    Attributes:
        scale: world units per metre.
        translation: (3,) world units, added after scaling.
        pose: (72,) axis-angle in radians, the root's first.
        betas: (10,) shape.
    """

    scale: float
    translation: Array
    pose: Array
    betas: Array


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
    lines = read_lines(path)
    if len(lines) != num_vertices:
        raise UserError(
            f"{path} has {len(lines)} rows, but the body has {num_vertices} vertices, one per row"
        )
    return table(path, lines, columns=3)


def read_keypoints(path: Path) -> Array:
    """Read keypoints.txt: (25, 3), world units, OpenPose's BODY_25; further columns are ignored.

    A keypoint that was not found may be NaN.

    Raises:
        UserError: another number of rows, a row that does not begin with three numbers, no such
            file.
    """
    lines = read_lines(path)
    if len(lines) != NUM_KEYPOINTS:
        raise UserError(f"{path} has {len(lines)} rows, but there are {NUM_KEYPOINTS} keypoints")
    rows = [numbers(path, number, line) for number, line in enumerate(lines, 1)]
    for number, row in enumerate(rows, 1):
        if len(row) < 3:
            raise UserError(f"{path}, line {number} has {len(row)} numbers, at least 3 are needed")
    return np.array([row[:3] for row in rows])


def read_fit(path: Path) -> Fit:
    """Read smpl_parameter.txt, 86 numbers.

    Raises:
        UserError: another number of them, one that is not finite, a scale that is not positive, no
            such file.
    """
    lines = read_lines(path)
    if len(lines) != NUM_PARAMETERS:
        raise UserError(
            f"{path} has {len(lines)} parameters, but a fit has {NUM_PARAMETERS}, one per line: "
            "scale, translation 3, pose 72, betas 10"
        )
    values = table(path, lines, columns=1)[:, 0]
    if values[0] <= 0:
        raise UserError(f"{path}, line 1: the scale is {values[0]:g}, it must be above 0")
    return Fit(float(values[0]), values[1:4], values[4:76], values[76:])


def read_cameras(body: Path) -> dict[int, Camera]:
    """Read the cameras of a session from intrinsic.txt and extrinsic.txt, by id.

    Raises:
        UserError: a file is missing or not in this layout, or anything that
            ``read_sound_cameras`` leaves out.
    """
    cameras, problems = read_sound_cameras(body)
    if problems:
        raise UserError(problems[0])
    return cameras


def read_sound_cameras(body: Path) -> tuple[dict[int, Camera], list[str]]:
    """Read those cameras of a session that can be used.

    A camera whose numbers are all zero in either file is one that was not there: it is left out
    without a word, as in HUMBI's own reader.

    Returns:
        The cameras by id, and one line for each that is in one file only or has numbers that no
        camera can have.

    Raises:
        UserError: a file is missing or not in this layout.
    """
    K_of = read_blocks(body / INTRINSICS, (3, 3, 3))
    extrinsics_of = read_blocks(body / EXTRINSICS, (3, 3, 3, 3))
    cameras, problems = {}, []
    for number in sorted(K_of.keys() | extrinsics_of.keys()):
        if number not in K_of or number not in extrinsics_of:
            names = (EXTRINSICS, INTRINSICS) if number not in K_of else (INTRINSICS, EXTRINSICS)
            problems.append(f"{body}: camera {number} is in {names[0]}, but not in {names[1]}")
            continue
        K, (C, *R) = K_of[number], extrinsics_of[number]
        camera = Camera(K, np.array(R), C)
        if problem := camera_problem(camera):
            problems.append(f"{body}: camera {number} {problem}")
        elif K.any() and camera.R.any():
            cameras[number] = camera
    return cameras, problems


def read_projections(path: Path) -> dict[int, Array]:
    """Read project.txt: M (3, 4) by camera id; see ``Camera.projection``.

    Raises:
        UserError: the file is missing or not in this layout.
    """
    return read_blocks(path, (4, 4, 4))


def camera_problem(camera: Camera) -> str | None:
    """What no camera can have, or None; a camera of zeros only stands for none and is right."""
    for name, values in (("K", camera.K), ("R", camera.R), ("C", camera.C)):
        if not np.isfinite(values).all():
            return f"has a {name} that is not finite"
    if not camera.K.any() or not camera.R.any():
        return None
    K, R = camera.K, camera.R
    if not (K[0, 0] > 0 and K[1, 1] > 0) or np.any(K[[1, 2, 2], [0, 0, 1]]) or K[2, 2] != 1:
        return f"has K {K.tolist()}, which is not [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
    with np.errstate(over="ignore", invalid="ignore"):  # NaN is no rotation either
        error = np.abs(R @ R.T - np.eye(3)).max()
        if not error <= ROTATION_TOLERANCE or np.linalg.det(R) < 0:
            return f"has an R that is no rotation (R R^T differs from 1 by {error:.2g})"
        if not np.isfinite(camera.projection()).all():
            return "has numbers too large to compute with"
    return None


def read_blocks(path: Path, row_lengths: Sequence[int]) -> dict[int, Array]:
    """Read a camera file: three header lines, then a line ``0 <id>`` and a few rows per camera.

    Args:
        path: the file.
        row_lengths: how many numbers each of a camera's rows has, all alike.

    Returns:
        An array (rows, numbers) per camera id. Numbers may be NaN or infinite.

    Raises:
        UserError: a line is not what it should be, a camera is there twice or unknown, or the last
            one is cut short.
    """
    lines = read_lines(path)
    if any(is_numbers(line) for line in lines[:HEADER_LINES]):
        raise UserError(
            f"{path} has numbers where its {HEADER_LINES} header lines should be (Numcam, "
            "numframes, numP)"
        )
    step = 1 + len(row_lengths)
    count, rest = divmod(len(lines) - HEADER_LINES, step)
    if count < 1 or rest:
        raise UserError(
            f"{path} has {len(lines)} lines, not {HEADER_LINES} and {step} for each camera"
        )
    blocks: dict[int, Array] = {}
    for start in range(HEADER_LINES, len(lines), step):
        camera = camera_id(path, start + 1, lines[start])
        if camera in blocks:
            raise UserError(f"{path}, line {start + 1}: camera {camera} is there twice")
        blocks[camera] = np.array(
            [
                numbers(path, number, lines[number - 1], length)
                for number, length in enumerate(row_lengths, start + 2)
            ]
        )
    return blocks


def camera_id(path: Path, number: int, line: str) -> int:
    """The id in the line that a camera begins with."""
    match = re.fullmatch(r"0\s+(\d{1,9})", line.strip(), re.ASCII)
    if match is None:
        raise UserError(
            f"{path}, line {number} is {shortened(line)}, but a camera begins with '0 <id>'"
        )
    camera = int(match.group(1))
    if camera >= NUM_CAMERAS:
        raise UserError(
            f"{path}, line {number}: camera id {camera} is not one of 0 to {NUM_CAMERAS - 1}"
        )
    return camera


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without blank ones at its end."""
    try:
        text = read_file(path, LARGEST_FILE).decode("ascii")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: {error}") from error
    return text.rstrip().splitlines()


def table(path: Path, lines: list[str], columns: int) -> Array:
    """Finite numbers (lines, columns) of lines that all have as many."""
    try:
        values = np.loadtxt(lines, comments=None, ndmin=2)  # C: several times as fast as float()
    except ValueError:
        values = np.empty((0, 0))
    if values.shape == (len(lines), columns) and np.isfinite(values).all():
        return values
    return np.array(list(finite_rows(path, lines, columns)))  # finds the line to be named


def finite_rows(path: Path, lines: list[str], columns: int) -> Iterator[list[float]]:
    """The same line by line."""
    for number, line in enumerate(lines, 1):
        row = numbers(path, number, line, columns)
        if not np.isfinite(row).all():
            raise UserError(f"{path}, line {number} is {shortened(line)}, which is not finite")
        yield row


def numbers(path: Path, number: int, line: str, count: int | None = None) -> list[float]:
    """The numbers of a line, which must be ``count`` if that is given."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise UserError(
            f"{path}, line {number} is {shortened(line)}, which is not numbers only"
        ) from None
    if count not in (None, len(values)):
        raise UserError(f"{path}, line {number} has {len(values)} numbers, not {count}")
    return values


def is_numbers(line: str) -> bool:
    """Whether a line has numbers and nothing else."""
    try:
        return len([float(word) for word in line.split()]) > 0
    except ValueError:
        return False


def shortened(line: str) -> str:
    """A line as errors show it."""
    return repr(line if len(line) <= 40 else f"{line[:40]}...")


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
    """Write smpl_vertex.txt, vertices (V, 3) in world units, with nine digits (a float32's)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ("{:.9g} {:.9g} {:.9g}\n".format(*vertex) for vertex in vertices.tolist())
    path.write_text("".join(lines), encoding="ascii")


def write_keypoints(path: Path, keypoints: NDArray[np.floating]) -> None:
    """Write keypoints.txt, keypoints (25, 3) in world units."""
    if keypoints.shape != (NUM_KEYPOINTS, 3):
        raise ValueError(f"keypoints must be ({NUM_KEYPOINTS}, 3), got {keypoints.shape}")
    write_vertices(path, keypoints)


def write_fit(path: Path, fit: Fit) -> None:
    """Write smpl_parameter.txt; numbers are read back to the last bit."""
    values = np.concatenate([[fit.scale], fit.translation, fit.pose, fit.betas])
    if values.shape != (NUM_PARAMETERS,):
        raise ValueError(f"a fit has {NUM_PARAMETERS} numbers, got {values.size}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(exact_text(values[:, None]), encoding="ascii")


def exact_text(rows: Sequence[Array] | Array) -> str:
    """Rows of numbers as lines, with the fewest digits that stand for them exactly."""
    return "".join(" ".join(map(repr, map(float, row))) + "\n" for row in rows)
