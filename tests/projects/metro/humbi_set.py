"""A few files in HUMBI's layout, and an index, to test with."""

import numpy as np
from PIL import Image

from projects.metro.humbi.files import (
    Camera,
    Fit,
    body_folder,
    image_file,
    keypoint_file,
    parameter_file,
    vertex_file,
    write_cameras,
    write_fit,
    write_vertices,
)
from projects.metro.humbi.index import LAYOUT, stored

HEIGHT, WIDTH = 90, 160
K = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])
# Both are five from the origin; the second looks at it along the world's x axis.
CAMERAS = {
    0: Camera(K, np.eye(3), np.array([0.0, 0, -5])),
    12: Camera(K, np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]), np.array([-5.0, 0, 0])),
}
SCALE = 1.25


def index_of(subject):
    """An index of made-up numbers: one subject, three cameras, two frames, four views."""
    generator = np.random.default_rng(subject)
    sizes, arrays = {"S": 1, "N": 3, "M": 2, "L": 4}, {}
    for name, (kind, dimensions) in LAYOUT.items():
        shape = [sizes.get(size, size) for size in dimensions]
        arrays[name] = generator.uniform(1, 2, shape) if kind == "f" else np.zeros(shape, int)
    arrays |= {
        "subject_ids": [subject],
        "subject_folders": [f"Body_1_8/subject_{subject}/body"],
        "camera_ids": [0, 5, 106],
        "frame_numbers": [1, 31],
        "view_frames": [0, 0, 1, 1],
        "view_cameras": [0, 2, 1, 2],
        "image_sizes": np.full((4, 2), [100, 200]),
    }
    return stored(arrays)


def vertices_of(subject, frame, num_vertices):
    """Points (V, 3) about the origin."""
    generator = np.random.default_rng([subject, frame])
    return generator.uniform(-1, 1, size=(num_vertices, 3)) * [0.3, 0.9, 0.2]


def fit_of(subject, frame):
    """Parameters that differ from frame to frame."""
    generator = np.random.default_rng([subject, frame, 1])
    return Fit(
        SCALE,
        generator.normal(scale=0.1, size=3),
        generator.normal(scale=0.1, size=72),
        generator.normal(size=10),
    )


def write_subject(bundle, subject, frames, num_vertices, mesh=None):
    """Write one body session and return its folder.

    ``mesh`` gives the vertices (V, 3) of a fit; without it they have nothing to do with it.
    """
    body = body_folder(bundle, subject)
    write_cameras(body, CAMERAS, len(frames))
    for frame in frames:
        fit = fit_of(subject, frame)
        vertices = vertices_of(subject, frame, num_vertices) if mesh is None else mesh(fit)
        write_fit(parameter_file(body, frame), fit)
        write_vertices(vertex_file(body, frame), vertices)
        write_vertices(keypoint_file(body, frame), np.zeros((25, 3)))
        for camera in CAMERAS:
            path = image_file(body, frame, camera)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (subject, frame, camera)).save(path)
    return body
