"""METRO with DropKey on HUMBI."""

from projects.metro.build import build_model
from projects.metro.evaluation import MeshEvaluator
from projects.metro.humbi.records import load_humbi
from projects.metro.mapper import MetroMapper

__all__ = ["MeshEvaluator", "MetroMapper", "build_model", "load_humbi"]
