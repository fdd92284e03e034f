"""COCO metrics, scored by faster-coco-eval's C++ with the same figures as the official pycocotools.

Source: detectron2's ``COCOEvaluator`` (collection of predictions over processes, tables), whose own C++
scorer is missing from pure-Python builds and whose Python fallback takes minutes on COCO.
"""

import copy
import itertools
import json
import logging
import os
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager

from ..errors import UserError

__all__ = ["FastCOCOEvaluator", "score_detections"]

logger = logging.getLogger(__name__)
Detections = list[dict[str, Any]]


class FastCOCOEvaluator(COCOEvaluator):
    """detectron2's ``COCOEvaluator`` with a fast exact scorer for boxes and masks.

    A model that detects nothing scores 0, not NaN, in every category that has objects. Annotations without
    ``area`` or ``iscrowd`` (common in home-made JSON files) get the box area and 0.
    """

    def __init__(self, dataset_name: str, **options: Any) -> None:
        """
        Args:
            dataset_name: a registered dataset with a COCO JSON file, or one that detectron2 can convert.
            options: of ``COCOEvaluator``: ``tasks``, ``distributed``, ``output_dir``, ...
        """
        super().__init__(dataset_name, **{"use_fast_impl": False, **options})
        for annotation in self._coco_api.dataset.get("annotations", []):
            annotation.setdefault("iscrowd", 0)
            annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])

    def _eval_predictions(self, predictions: Detections, img_ids: list[int] | None = None) -> None:
        detections = list(
            itertools.chain.from_iterable(prediction["instances"] for prediction in predictions)
        )
        tasks = sorted(self._tasks or self._tasks_from_predictions(detections))
        if "keypoints" in tasks:
            super()._eval_predictions(predictions, img_ids=img_ids)
            return
        self._to_dataset_categories(detections)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with PathManager.open(path, "w") as file:
                json.dump(detections, file)
            logger.info("Detections are in %s", path)
        if not self._do_evaluation:
            logger.info("The dataset has no annotations to score against")
            return
        for task in tasks:
            scores = score_detections(
                self._coco_api.dataset,
                detections,
                task,
                max_dets=self._max_dets_per_image,
                image_ids=img_ids,
            )
            classes = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(scores, task, class_names=classes)

    def _to_dataset_categories(self, detections: Detections) -> None:
        """Replace the contiguous class ids 0, 1, ... by the JSON file's category ids, in place."""
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is None:
            return
        to_category = {contiguous: category for category, contiguous in to_contiguous.items()}
        for detection in detections:
            try:
                detection["category_id"] = to_category[detection["category_id"]]
            except KeyError as error:
                raise UserError(
                    f"the model found class {error.args[0]} but dataset {self._metadata.name} has only "
                    f"{len(to_category)} classes: evaluate with the number of classes it was trained with"
                ) from error


def score_detections(
    ground_truth: dict[str, Any],
    detections: Detections,
    task: str,
    *,
    max_dets: list[int] | None = None,
    image_ids: list[int] | None = None,
) -> Any:
    """Score detections against ground truth with COCO's protocol.

    Args:
        ground_truth: content of a COCO JSON file, each annotation with ``area`` and ``iscrowd``.
        detections: COCO results (``image_id``, ``category_id``, ``score``, ``bbox`` as x, y, w, h in pixels
            of the original image or ``segmentation`` as RLE); may be empty.
        task: 'bbox' or 'segm'.
        max_dets: detections an image that count, three limits in rising order; default [1, 10, 100].
        image_ids: score these images only.

    Returns:
        An evaluation object as pycocotools makes: ``stats`` float64 [12] in [0, 1] (-1: not defined),
        ``eval["precision"]`` float64 [10, 101, categories, 4, 3].
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(ground_truth)
    if task == "segm":
        # with a box, the scorer would take the box area as the object's size
        detections = [{key: value for key, value in item.items() if key != "bbox"} for item in detections]
    evaluation = COCOeval_faster(truth, _load_results(truth, detections), task, print_function=logger.debug)
    evaluation.params.maxDets = list(max_dets or [1, 10, 100])
    if image_ids is not None:
        evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _load_results(truth: Any, detections: Detections) -> Any:
    if detections:
        return truth.loadRes(copy.deepcopy(detections))  # it adds keys to them
    empty = type(truth)()
    empty.dataset = {key: truth.dataset[key] for key in ("images", "categories")} | {"annotations": []}
    empty.createIndex()
    return empty
