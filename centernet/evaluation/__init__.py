"""Scores: evaluators by dataset kind and the evaluation of a model on all test datasets."""

from .build import build_evaluator, check, evaluate, output_folder
from .coco import FastCOCOEvaluator, score_detections
from .lvis import FastLVISEvaluator, score_lvis_detections
from .scores import Scores

__all__ = [
    "FastCOCOEvaluator",
    "FastLVISEvaluator",
    "Scores",
    "build_evaluator",
    "check",
    "evaluate",
    "output_folder",
    "score_detections",
    "score_lvis_detections",
]
