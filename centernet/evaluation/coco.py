"""COCO metrics with the official figures, in seconds instead of minutes.

Source: detectron2's ``COCOEvaluator`` (collection of predictions over processes), whose own C++ scorer is missing
from pure-Python builds and whose Python fallback takes minutes on COCO; figures as pycocotools 2.0 computes them.
"""

import itertools
import json
import logging
import os
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager

from ..errors import UserError
from .protocol import coco_protocol
from .scores import Scores
from .scoring import score_by_protocol
from .table import log_table

__all__ = [
    "Detections",
    "FastCOCOEvaluator",
    "complete_annotations",
    "names_of_categories",
    "score_detections",
    "to_dataset_categories",
]

logger = logging.getLogger(__name__)
Detections = list[dict[str, Any]]


class FastCOCOEvaluator(COCOEvaluator):
    """detectron2's ``COCOEvaluator`` with a fast exact scorer and a complete table (see ``Scores.metrics``).

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
        complete_annotations(self._coco_api.dataset)

    def _eval_predictions(self, predictions: Detections, img_ids: list[int] | None = None) -> None:
        detections = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        tasks = sorted(self._tasks or self._tasks_from_predictions(detections))
        to_dataset_categories(detections, self._metadata)
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
                max_dets=None if task == "keypoints" else self._max_dets_per_image,
                image_ids=img_ids,
                sigmas=self._kpt_oks_sigmas,
            )
            self._results[task] = scores.metrics(names_of_categories(self._metadata, scores.category_ids.tolist()))
            log_table(task, self._results[task])


def complete_annotations(ground_truth: dict[str, Any]) -> None:
    """Give annotations without ``area`` the box area and those without ``iscrowd`` 0, in place."""
    for annotation in ground_truth.get("annotations", []):
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]


def to_dataset_categories(detections: Detections, metadata: MetadataCatalog, *, default_shift: int = 0) -> None:
    """Replace the contiguous class ids 0, 1, ... by the JSON file's category ids, in place.

    Args:
        detections: COCO results with contiguous ``category_id``.
        metadata: of the dataset; its ``thing_dataset_id_to_contiguous_id`` is inverted.
        default_shift: added to the ids where the metadata have no such mapping.

    Raises:
        UserError: a class that the dataset does not have.
    """
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if to_contiguous is None:
        for detection in detections if default_shift else ():
            detection["category_id"] += default_shift
        return
    to_category = {contiguous: category for category, contiguous in to_contiguous.items()}
    for detection in detections:
        try:
            detection["category_id"] = to_category[detection["category_id"]]
        except KeyError as error:
            raise UserError(
                f"the model found class {error.args[0]} but dataset {metadata.name} has only "
                f"{len(to_category)} classes: evaluate with the number of classes it was trained with"
            ) from error


def names_of_categories(metadata: MetadataCatalog, category_ids: list[Any]) -> list[str] | None:
    """Class names in the order of ``category_ids``; the id itself where the metadata have none; None: no names."""
    names, to_contiguous = metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
    if names is None:
        return None
    if to_contiguous is None:
        return list(names) if len(names) == len(category_ids) else None
    return [names[to_contiguous[number]] if number in to_contiguous else str(number) for number in category_ids]


def score_detections(
    ground_truth: dict[str, Any],
    detections: Detections,
    task: str,
    *,
    max_dets: list[int] | None = None,
    image_ids: list[int] | None = None,
    sigmas: Any = (),
) -> Scores:
    """Score detections against ground truth with COCO's protocol; the figures are those of pycocotools 2.0.

    One difference: an object whose annotation id is 0 can be found (pycocotools takes 0 for "no match").

    Args:
        ground_truth: content of a COCO JSON file, each annotation with ``area`` and ``iscrowd``.
        detections: COCO results (``image_id``, ``category_id``, ``score``, ``bbox`` as x, y, w, h in pixels of the
            original image, ``segmentation`` as RLE or ``keypoints`` as x, y, score triples); may be empty.
            Categories that the ground truth does not have are left out.
        task: 'bbox', 'segm' or 'keypoints'.
        max_dets: detections an image and category that count, limits in rising order, the last one for AP; default
            [1, 10, 100], and [20] for keypoints.
        image_ids: score these images only.
        sigmas: of the keypoints; default COCO's.

    Returns:
        ``stats`` float64 [12] in [0, 1] (-1: not defined; keypoints [10]), ``metrics()`` in percent, and curves:
        ``eval["precision"]`` and ``eval["scores"]`` float64 [10, 101, categories, 4, 3], ``eval["recall"]``.

    Raises:
        UserError: an unknown task, a detection on an image that the ground truth does not have, or another number of
        keypoints than the ground truth or ``sigmas`` have.
    """
    protocol = coco_protocol(task, max_dets, sigmas)
    if task == "keypoints":
        _check_keypoints(ground_truth, detections, len(protocol.sigmas))
    return score_by_protocol(ground_truth, detections, protocol, image_ids)


def _check_keypoints(ground_truth: dict[str, Any], detections: Detections, expected: int) -> None:
    for what, items in (("annotations", ground_truth["annotations"]), ("detections", detections)):
        for item in items:
            given = len(item.get("keypoints", ())) // 3
            if given != expected:
                raise UserError(
                    f"the {what} have {given} keypoints but the evaluation has {expected} sigmas: set "
                    "TEST.KEYPOINT_OKS_SIGMAS to one number for each keypoint"
                )
