"""Building a body model from the mannequin's measures."""

import numpy as np

from mannequin.anatomy import fineness, h36m_places, person, smpl_places
from mannequin.correctives import pose_directions
from mannequin.decimation import decimate
from mannequin.regression import regressor
from mannequin.shapes import shape_directions
from mannequin.signed_distance import gradient
from mannequin.skinning import skin_weights
from mannequin.smoothing import flip_edges, relax, unit
from mannequin.surface_net import surface_net
from projects.metro.body.model import Body
from projects.metro.body.skeleton import SMPL_PARENTS

SMPL_SIZES = (6890, 1723, 431)  # vertices: full, coarse, coarsest
CELL = 0.008  # metres; gives five times SMPL's vertices
ROUNDS = 12


def make_mannequin(
    sizes: tuple[int, int, int] = SMPL_SIZES, cell: float = CELL, rounds: int = ROUNDS
) -> Body:
    """Make a neutral person: 1.7 m tall, arms stretched out, as SMPL's template stands.

    The same arguments give the same body.

    Args:
        sizes: vertices of the full mesh and of the two coarser ones. A closed mesh of V vertices
            without holes has 2 V - 4 faces: with SMPL's numbers 13,776, 3,442 and 858.
        cell: metres between the places where the surface is looked for. Above 0.010 hands break.
        rounds: how often vertices are evened out over the surface.
    """
    solid = person()
    points, faces = surface_net(solid, cell)
    assert len(faces) == 2 * len(points) - 4, f"cell {cell} gives a surface with holes"
    kept, faces = decimate(points, faces, unit(gradient(solid, points)), fineness(points), sizes[0])
    points, faces = relax(solid, points[kept], faces, fineness, rounds)
    normals, lengths = unit(gradient(solid, points)), fineness(points)
    kept, coarse_faces = np.arange(len(points)), faces
    levels = []
    for size in sizes[1:]:
        chosen, coarse_faces = decimate(
            points[kept], coarse_faces, normals[kept], lengths[kept], size
        )
        kept = kept[chosen]
        coarse_faces = flip_edges(points[kept], coarse_faces)
        levels.append((kept, coarse_faces))
    joints = smpl_places()
    weights = skin_weights(points, faces, joints)
    return Body(
        template=points,
        faces=faces,
        shape_directions=shape_directions(points, joints, weights),
        pose_directions=pose_directions(points, joints, weights),
        joint_regressor=regressor(points, joints),
        parents=np.array(SMPL_PARENTS),
        skin_weights=weights,
        h36m_regressor=regressor(points, h36m_places()),
        coarse_vertices_1=levels[0][0],
        coarse_faces_1=levels[0][1],
        coarse_vertices_2=levels[1][0],
        coarse_faces_2=levels[1][1],
    )
