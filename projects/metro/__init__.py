"""METRO with DropKey on HUMBI."""

from projects.metro.build import build_model
from projects.metro.evaluation import MeshEvaluator
from projects.metro.humbi.records import load_humbi
from projects.metro.mapper import MetroMapper
from projects.metro.predictor import BodyEstimator

__all__ = ["BodyEstimator", "MeshEvaluator", "MetroMapper", "build_model", "load_humbi"]
