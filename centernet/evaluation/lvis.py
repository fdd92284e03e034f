"""LVIS metrics with the official figures, without the official package's loop over every image and category.

Source: detectron2's ``LVISEvaluator``; figures as lvis 0.5.3 computes them (Gupta et al., LVIS, 2019).
"""

import itertools
import json
import logging
import os
from typing import Any

from detectron2.evaluation import LVISEvaluator
from detectron2.utils.file_io import PathManager

from ..errors import UserError
from .coco import Detections, names_of_categories, to_dataset_categories
from .protocol import lvis_protocol
from .scores import Scores
from .scoring import score_by_protocol
from .table import log_table

__all__ = ["FastLVISEvaluator", "check_lvis", "score_lvis_detections"]

logger = logging.getLogger(__name__)


class FastLVISEvaluator(LVISEvaluator):
    """detectron2's ``LVISEvaluator`` with a fast exact scorer that works with every numpy, and a complete table.

    A model that detects nothing scores 0, not NaN, in every category that has objects.
    """

    def _eval_predictions(self, predictions: Detections) -> None:
        detections = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        tasks = sorted(self._tasks or self._tasks_from_predictions(detections))
        to_dataset_categories(detections, self._metadata, default_shift=1)
        if self._output_dir:
            path = os.path.join(self._output_dir, "lvis_instances_results.json")
            with PathManager.open(path, "w") as file:
                json.dump(detections, file)
            logger.info("Detections are in %s", path)
        if not self._do_evaluation:
            logger.info("The dataset has no annotations to score against")
            return
        for task in tasks:
            truth, limit = self._lvis_api.dataset, self._max_dets_per_image
            scores = score_lvis_detections(truth, detections, task, max_dets=limit)
            self._results[task] = scores.metrics(names_of_categories(self._metadata, scores.category_ids.tolist()))
            log_table(task, self._results[task])


def score_lvis_detections(
    ground_truth: dict[str, Any],
    detections: Detections,
    task: str,
    *,
    max_dets: int | None = None,
    image_ids: list[int] | None = None,
) -> Scores:
    """Score detections against LVIS ground truth; the figures are those of lvis 0.5.3.

    Args:
        ground_truth: content of an LVIS JSON file.
        detections: COCO results; see ``score_detections``.
        task: 'bbox' or 'segm'.
        max_dets: best detections an image that count, over all categories; default 300.
        image_ids: score these images only.

    Returns:
        As ``score_detections``, with one limit on detections and the frequency groups.

    Raises:
        UserError: the ground truth lacks what LVIS needs, another task, or a detection on an image that the ground
        truth does not have.
    """
    check_lvis(ground_truth)
    return score_by_protocol(ground_truth, detections, lvis_protocol(task, max_dets), image_ids)


def check_lvis(ground_truth: dict[str, Any]) -> None:
    """Raise :class:`UserError` if the file does not say what LVIS's rules need."""
    needed = {"images": ("neg_category_ids", "not_exhaustive_category_ids"), "categories": ("frequency",)}
    for part, keys in needed.items():
        for entry in ground_truth[part]:
            for key in keys:
                if key not in entry:
                    raise UserError(
                        f"this is no LVIS annotation file, since '{key}' is missing in entry {entry.get('id')} of "
                        f"'{part}': score it with COCO's rules"
                    )
