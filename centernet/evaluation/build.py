"""Evaluation of a model on the datasets of ``DATASETS.TEST``."""

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm

from ..data.datasets import check_files, ensure_registered
from ..data.loader import build_test_loader
from ..errors import UserError
from ..modeling.augmented_inference import check_test_time_augmentation, with_test_time_augmentation
from .coco import FastCOCOEvaluator
from .lvis import FastLVISEvaluator
from .proposals import ProposalRecorder, check_recordable

__all__ = ["build_evaluator", "check", "evaluate", "output_folder"]

logger = logging.getLogger(__name__)


def check(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for what :func:`evaluate` would refuse and the config alone can tell.

    That is: test-time augmentation of a one-stage model, proposals to save that the model does not make, and a
    dataset of ``DATASETS.TEST`` that is unknown or of a kind that we cannot evaluate.
    """
    if cfg.DATASETS.TEST:
        check_test_time_augmentation(cfg)
    if cfg.TEST.SAVE_PROPOSALS and cfg.DATASETS.TEST:
        check_recordable(cfg)
    for name in cfg.DATASETS.TEST:
        _evaluator_type(name)


def evaluate(cfg: CfgNode, model: torch.nn.Module) -> OrderedDict[str, dict[str, Any]]:
    """Run ``model`` over every dataset of ``DATASETS.TEST`` and score it.

    Detections go to ``OUTPUT_DIR/inference_<dataset>``. All processes must call this; the model is in eval
    mode meanwhile.

    Returns:
        ``{dataset: {task: {metric: percent}}}``, e.g. ``results["digits_val"]["bbox"]["AP50"]``, the same on all
        processes; the main one has scored. Metrics are in 0..100; NaN: not defined (no object of that kind).

    Raises:
        UserError: no test dataset, or one that is unknown, missing, empty, or of a kind we cannot evaluate;
        test-time augmentation of a one-stage model.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("nothing to evaluate on: DATASETS.TEST is empty")
    model = with_test_time_augmentation(cfg, model)
    results: OrderedDict[str, dict[str, Any]] = OrderedDict()
    for name in cfg.DATASETS.TEST:
        evaluator = build_evaluator(cfg, name, output_folder(cfg, name))
        with _recording_proposals(cfg, name, model) as recorders:
            results[name] = inference_on_dataset(model, build_test_loader(cfg, name), [evaluator, *recorders])
        if comm.is_main_process() and results[name]:
            logger.info("Evaluation results for %s in csv format:", name)
            print_csv_format(results[name])
    return results if comm.get_world_size() == 1 else comm.all_gather(results)[0]


@contextmanager
def _recording_proposals(cfg: CfgNode, dataset_name: str, model: torch.nn.Module) -> Iterator[list[ProposalRecorder]]:
    """``TEST.SAVE_PROPOSALS``: first-stage proposals are stored beside the detections."""
    if not cfg.TEST.SAVE_PROPOSALS:
        yield []
        return
    check_recordable(cfg)
    recorder = ProposalRecorder(cfg, dataset_name, model, output_folder(cfg, dataset_name))
    try:
        yield [recorder]
    finally:
        recorder.close()


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluator that the dataset's metadata ask for (``evaluator_type``, 'coco' or 'lvis').

    Args:
        cfg: its ``TEST.KEYPOINT_OKS_SIGMAS`` is used for keypoints; tasks are inferred from the predictions.
        dataset_name: a registered name or ``coco_json:PATH/TO.json:IMAGE_ROOT``.
        output_folder: where detections are written.

    Raises:
        UserError: the dataset is unknown or its files are missing, another evaluator type, or lvis is not
        installed.
    """
    kind = _evaluator_type(dataset_name)
    check_files(dataset_name)
    if kind == "coco":
        sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
        return FastCOCOEvaluator(dataset_name, output_dir=output_folder, kpt_oks_sigmas=sigmas)
    try:
        return FastLVISEvaluator(dataset_name, output_dir=output_folder)
    except ImportError as error:
        raise UserError("evaluation on LVIS needs the lvis package: pip install lvis") from error


def _evaluator_type(dataset_name: str) -> str:
    """'coco' or 'lvis'; :class:`UserError` for any other, or if there is no such dataset."""
    ensure_registered([dataset_name])
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in ("coco", "lvis"):
        raise UserError(
            f"dataset {dataset_name} asks for evaluator type '{kind}' but only 'coco' and 'lvis' are known: set "
            "evaluator_type in its metadata or leave it out of DATASETS.TEST"
        )
    return str(kind)


def output_folder(cfg: CfgNode, dataset_name: str) -> str:
    """``OUTPUT_DIR/inference_<dataset>``, with the characters of ``coco_json:`` names that no folder may have
    replaced."""
    return os.path.join(cfg.OUTPUT_DIR, "inference_" + re.sub(r"[^\w.\-]+", "_", dataset_name))
