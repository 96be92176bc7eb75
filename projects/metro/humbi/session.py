"""One body session of HUMBI, checked: its part of the index, and what is left out of it and why."""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropkey_core.engine import UserError
from dropkey_core.engine.files.images import read_header
from dropkey_core.engine.files.outside import check_inside, places_of
from projects.metro.geometry import in_camera, project, square_around
from projects.metro.humbi.files import (
    Array,
    Camera,
    Fit,
    cameras_of,
    frame_folder,
    frames_of,
    image_file,
    parameter_file,
    read_cameras,
    read_fit,
    read_vertices,
    vertex_file,
)
from projects.metro.humbi.index import HumbiIndex, stored

LEAST_INSIDE = 0.5  # share of the mesh's vertices in the picture, or the view is left out
BOX_FACTOR = 1.2  # how much wider than the mesh the square box is; METRO's for 3DPW

END_OF_JPEG = b"\xff\xd9"
PADDING = 64  # bytes that a camera may have put after it, all zero


class Problem(NamedTuple):
    """Something that is left out: where it lies, of what kind the reason is, and the details."""

    path: str
    kind: str
    details: str = ""

    def line(self) -> str:
        """The problem as a line of the list."""
        return f"{self.path}\t{self.kind}" + (f": {self.details}" if self.details else "")


class Session(NamedTuple):
    """A subject's body session: its id and its folder relative to the set's."""

    subject: int
    folder: str


class Part(NamedTuple):
    """What became of one session: its views as an index, and what was left out of it."""

    index: HumbiIndex
    problems: list[Problem]


class CameraView(NamedTuple):
    """A frame seen by a camera: image (height, width), box centre (2,) and side, all in pixels."""

    frame: int
    camera: int
    image_size: tuple[int, int]
    centre: Array
    box_side: float


def index_session(source: Path, session: Session, num_vertices: int) -> Part:
    """Check a session's cameras, frames, meshes of ``num_vertices`` and pictures."""
    body = source / session.folder
    places = places_of(source, source / Path(session.folder).parts[0])
    try:
        cameras, unsound = read_cameras(body)
    except UserError as error:
        return part_of(session, {}, {}, [], [Problem(str(body), "cameras unusable", str(error))])
    problems = [Problem(str(body), "camera unusable", line) for line in unsound]
    fits: dict[int, Fit] = {}
    views: list[CameraView] = []
    without_camera: Counter[int] = Counter()
    for frame in frames_of(body):
        try:
            for path in (parameter_file(body, frame), vertex_file(body, frame)):
                check_inside(path, places)
            fit = read_fit(parameter_file(body, frame))
            vertices = read_vertices(vertex_file(body, frame), num_vertices)
        except UserError as error:
            problems.append(Problem(str(frame_folder(body, frame)), "mesh unusable", str(error)))
            continue
        pictures = cameras_of(body, frame)
        if not pictures:
            problems.append(Problem(str(frame_folder(body, frame)), "frame has no picture"))
        without_camera.update(set(pictures) - cameras.keys())
        for camera in cameras.keys() & pictures:
            found = check_view(body, frame, camera, cameras[camera], vertices, places)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                views.append(found)
                fits[frame] = fit
    for camera, count in sorted(without_camera.items()):
        details = f"camera {camera}, {count} pictures"
        problems.append(Problem(str(body), "pictures of a camera without calibration", details))
    if not views:
        problems.append(Problem(str(body), "subject has no view that can be used"))
    return part_of(session, cameras, fits, views, problems)


def check_view(
    body: Path,
    frame: int,
    camera: int,
    calibration: Camera,
    vertices: Array,
    places: tuple[str, ...],
) -> CameraView | Problem:
    """The view of a mesh (V, 3) in world units by a camera, or why there is none."""
    path = image_file(body, frame, camera)
    try:
        check_inside(path, places)
        height, width = jpeg_size(path)
    except UserError as error:
        return Problem(str(path), "picture unusable", str(error))
    points = in_camera(vertices, calibration.R, calibration.C)
    if points[:, 2].min() <= 0:
        return Problem(str(path), "person is not in front of the camera")
    pixels = project(points, calibration.K)
    x, y = pixels.T
    inside = ((x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)).mean()
    if inside < LEAST_INSIDE:
        return Problem(str(path), "person is out of the picture", f"{inside:.0%} of the mesh in it")
    centre, side = square_around(pixels, BOX_FACTOR)
    return CameraView(frame, camera, (height, width), centre, side)


def jpeg_size(path: Path) -> tuple[int, int]:
    """(height, width) of a JPEG file that is there to its end; its pixels are not decoded.

    Raises:
        UserError: it cannot be read, is no JPEG file or was cut short.
    """
    size = read_header(path, ["JPEG"]).stored
    with path.open("rb") as file:
        file.seek(-min(PADDING, path.stat().st_size), os.SEEK_END)
        ends = file.read().rstrip(b"\0").endswith(END_OF_JPEG)
    if not ends:
        raise UserError(f"{path} is cut short")
    return size


def part_of(
    session: Session,
    cameras: dict[int, Camera],
    fits: dict[int, Fit],
    views: list[CameraView],
    problems: list[Problem],
) -> Part:
    """The part of a session, of the frames that have a view and all cameras that can be used."""
    frames = sorted({view.frame for view in views})
    views = sorted(views, key=lambda view: (view.frame, view.camera))
    ids = sorted(cameras) if views else []
    calibrations, meshes = [cameras[camera] for camera in ids], [fits[frame] for frame in frames]

    index = stored(
        {
            "subject_ids": [session.subject],
            "subject_folders": [session.folder],
            "camera_subjects": [0] * len(ids),
            "camera_ids": ids,
            **{name: [getattr(one, name) for one in calibrations] for name in "KRC"},
            "frame_subjects": [0] * len(frames),
            "frame_numbers": frames,
            "scales": [one.scale for one in meshes],
            "translations": [one.translation for one in meshes],
            "poses": [one.pose for one in meshes],
            "betas": [one.betas for one in meshes],
            "view_frames": np.searchsorted(frames, [view.frame for view in views]),
            "view_cameras": np.searchsorted(ids, [view.camera for view in views]),
            "image_sizes": [view.image_size for view in views],
            "centres": [view.centre for view in views],
            "box_sides": [view.box_side for view in views],
        }
    )
    return Part(index, problems)
