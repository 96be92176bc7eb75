"""DETR with DropKey on COCO."""

from projects.detr.build import build_model
from projects.detr.coco import load_coco, num_classes
from projects.detr.evaluation import CocoEvaluator
from projects.detr.mapper import DetrMapper
from projects.detr.predictor import Detector

__all__ = ["CocoEvaluator", "Detector", "DetrMapper", "build_model", "load_coco", "num_classes"]
