"""A free body of SMPL's format: a neutral mannequin, computed from a page of measures."""

from mannequin.build import make_mannequin

__all__ = ["make_mannequin"]
