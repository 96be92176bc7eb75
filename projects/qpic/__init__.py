"""QPIC with DropKey on HICO-DET."""

from projects.qpic.build import build_model
from projects.qpic.classes import num_object_classes, num_verb_classes
from projects.qpic.evaluation import HicoDetEvaluator, build_evaluator
from projects.qpic.hico_det import load_hico_det
from projects.qpic.mapper import QpicMapper
from projects.qpic.predictor import InteractionDetector

__all__ = [
    "HicoDetEvaluator",
    "InteractionDetector",
    "QpicMapper",
    "build_evaluator",
    "build_model",
    "load_hico_det",
    "num_object_classes",
    "num_verb_classes",
]
