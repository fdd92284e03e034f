"""Everything that a report says, as numbers: made once, then drawn by :mod:`.page`."""

from typing import Any, NamedTuple

import numpy as np

from ..coco import score_detections
from ..lvis import score_lvis_detections
from ..scores import Scores
from .calibration import Reliability, case_of_proposals, covers, reliability
from .confusion import Confusion, confusion, operating_point
from .error_kinds import Errors, classify, cost_of_images, costs
from .inputs import Frequencies, ReportInputs, class_frequencies
from .matching import Case, Found, is_federated, make_case, match

__all__ = ["Analysis", "Calibration", "analyse"]

_COCO_LIMIT, _LVIS_LIMIT = 100, 300  # detections that count, of an image and class, and of an image


class Calibration(NamedTuple):
    """``score``: of the detections as they are; ``product``: of ``P(class | object) P(object)``; ``objectness`` and
    ``objectness_single``: of first-stage proposals that overlap any object, and that are the best one of theirs. None:
    not known from these files."""

    score: Reliability
    product: Reliability | None
    objectness: Reliability | None
    objectness_single: Reliability | None


class Analysis(NamedTuple):
    """``scores``: the official figures; ``threshold``: smallest score for ``confusion``, with its precision and recall;
    ``worst``: rows of ``case.images`` with their cost in points of AP50."""

    case: Case
    scores: Scores
    frequencies: Frequencies
    errors: Errors
    costs: dict[str, float]
    confusion: Confusion
    threshold: float
    threshold_precision: float
    threshold_recall: float
    calibration: Calibration
    worst: list[tuple[int, float]]

    @property
    def precision(self) -> np.ndarray:
        """Float64 ``[10, 101, C]``, at IoU 0.5 to 0.95 and recall 0 to 1; -1 for classes without objects."""
        return self.scores.curves.precision[:, :, :, 0, -1]

    def class_ap(self, name: str = "AP") -> np.ndarray:
        """Percent, ``[C]``; NaN for classes without objects.

        Args:
            name: 'AP', 'AP50' or 'AP75'.
        """
        values = self.scores.per_class()[name]
        return np.where(values < 0, np.nan, 100 * values)


def analyse(inputs: ReportInputs, *, threshold: float | None = None) -> Analysis:
    """Judge the detections.

    Args:
        threshold: smallest score for the confusion matrix and the pictures; None: the one with the best F1.

    Raises:
        UserError: the results do not belong to the data.
    """
    case = make_case(inputs.truth, inputs.detections, max_dets=_limit(inputs.truth))
    scorer = score_lvis_detections if is_federated(inputs.truth) else score_detections
    scores: Scores = scorer(inputs.truth, inputs.detections, "bbox")
    matches = match(case)
    errors = classify(case, matches)
    best, precision, recall = operating_point(case, matches)
    if threshold is not None:
        best = threshold
        above = (case.found.scores >= threshold) & ~matches.ignored
        hits = int((matches.hit & above).sum())
        precision, recall = hits / max(1, int(above.sum())), hits / max(1, int(case.counts.sum()))
    return Analysis(
        case,
        scores,
        class_frequencies(inputs),
        errors,
        costs(case, errors),
        confusion(case, best),
        best,
        precision,
        recall,
        _calibration(inputs, case, matches.hit, matches.ignored),
        cost_of_images(case, errors),
    )


def _limit(truth: dict[str, Any]) -> int:
    return _LVIS_LIMIT if is_federated(truth) else _COCO_LIMIT


def _calibration(inputs: ReportInputs, case: Case, hit: np.ndarray, ignored: np.ndarray) -> Calibration:
    score = reliability(case.found.scores[~ignored], hit[~ignored])
    stored, cfg = inputs.proposals, inputs.cfg
    objectness = single = product = None
    if stored is not None:
        proposals = case_of_proposals(case, stored.image_ids, stored.boxes, stored.probabilities)
        any_object, best, excused = covers(proposals)
        probabilities = proposals.found.scores[~excused]
        objectness = reliability(probabilities, any_object[~excused])
        single = reliability(probabilities, best[~excused])
    if stored is not None and len(stored.products):
        product = _of_products(inputs, case)
    elif cfg is not None and _score_is_root_of_product(cfg):
        product = reliability(case.found.scores[~ignored] ** 2, hit[~ignored])
    return Calibration(score, product, objectness, single)


def _score_is_root_of_product(cfg: Any) -> bool:
    two_stage = cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and cfg.MODEL.PROPOSAL_GENERATOR.NAME == "CenterNet"
    return two_stage and cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE and not cfg.MODEL.CENTERNET.SQRT_SCORE


def _of_products(inputs: ReportInputs, case: Case) -> Reliability:
    stored = inputs.proposals
    assert stored is not None
    boxes = stored.product_boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(
        stored.product_image_ids.tolist(), stored.product_category_ids.tolist(), boxes.tolist(),
        stored.products.tolist(), strict=True,
    )  # fmt: skip
    detections = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]
    by_product = make_case(inputs.truth, detections, max_dets=_limit(inputs.truth))
    matches = match(by_product)
    found: Found = by_product.found
    return reliability(found.scores[~matches.ignored], matches.hit[~matches.ignored])
