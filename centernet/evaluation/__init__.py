"""Scores: evaluators by dataset kind and the evaluation of a model on all test datasets."""

from .build import build_evaluator, check, evaluate, output_folder
from .coco import FastCOCOEvaluator, score_detections

__all__ = ["FastCOCOEvaluator", "build_evaluator", "check", "evaluate", "output_folder", "score_detections"]
